"""Whether conversations can be written for a base model and learnt from, told by its tokenizer alone."""

from dataclasses import dataclass
from pathlib import Path

from formats.chat_templates import plain_template
from xlora_engine.data.chat import has_template
from xlora_engine.data.stop_tokens import turn_end
from xlora_engine.sources.base_model import load_tokenizer

_ENDLESS = (
    "its chat template ends an answer with no special token, so it cannot be trained on or evaluated; give"
    " another with --chat-template FILE or NAME"
)


@dataclass(frozen=True, kw_only=True)
class TemplateProof:
    """What becomes of a base model's chat template."""

    #: The template to put in where there is none.
    default: str | None
    warnings: tuple[str, ...]


def read_template(folder: Path, *, called: Path) -> TemplateProof:
    """Write a conversation with the folder's tokenizer; messages name the folder `called`.

    Raises:
        BaseUnreadable: there is no tokenizer that can be loaded.
    """
    tokenizer = load_tokenizer(folder, called=called)
    default = None
    if not has_template(tokenizer):
        first = tokenizer("")["input_ids"][:1]
        default = plain_template(begins=bool(first) and first[0] == tokenizer.bos_token_id)
        tokenizer.chat_template = default
    warnings = () if turn_end(tokenizer) is not None else (_ENDLESS,)
    return TemplateProof(default=default, warnings=warnings)
