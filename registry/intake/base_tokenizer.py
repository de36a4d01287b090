"""The tokenizer of a base model: its chat template, and tokens that the weights cannot read."""

from collections.abc import Mapping
from pathlib import Path

from formats.chat_templates import CHAT_TEMPLATES, DEFAULT
from formats.strict_json import parse_object
from registry.errors import InvalidBase
from registry.files.linked_files import followed
from registry.files.regular_files import read_bounded
from registry.files.staging import Staging
from registry.intake.base_config import TEMPLATE_LIMIT_BYTES, read_json
from registry.intake.tokenizer_files import (
    CHAT_TEMPLATE_FILE,
    DEFAULT_TEMPLATE,
    LIMIT_BYTES,
    TOKENIZER_CONFIG_FILE,
    VOCABULARY_FILE,
    templates_of,
    token_ids,
)

#: Where processors of pictures kept the template before it had a file of its own.
_PROCESSOR_TEMPLATE_FILE = "chat_template.json"
_SHOWN_TOKENS = 3
_WAY_OUT = "give one with --chat-template FILE or NAME"


def stage_template(
    folder: Path, names: frozenset[str], staging: Staging, *, asked: str | None
) -> tuple[str, ...]:
    """Put the chat template that is asked for among the copies, if it is not the one that is there.

    `asked` is the name of one of its own templates or of `CHAT_TEMPLATES`, or a file. Returns what is said.

    Raises:
        InvalidBase: there is no such template, or the tokenizer lacks the tokens that it writes.
    """
    stated, processor = _stated_templates(staging), _processor_templates(folder, names)
    own = {**processor, **stated}
    if asked is None:
        if CHAT_TEMPLATE_FILE not in staging and DEFAULT_TEMPLATE in processor.keys() - stated.keys():
            staging.write(CHAT_TEMPLATE_FILE, processor[DEFAULT_TEMPLATE].encode())
        return ()
    if asked in own:
        text = own[asked]
    elif asked in CHAT_TEMPLATES:
        text = CHAT_TEMPLATES[asked].text
        _require_tokens(asked, staging)
    else:
        text = _read_template(asked, own)
    staging.write(CHAT_TEMPLATE_FILE, text.encode())
    return (f"its chat template is {asked}, as asked for with --chat-template",)


def put_default(staging: Staging, text: str) -> str:
    """Put the default chat template among the copies; what is said of it."""
    staging.write(CHAT_TEMPLATE_FILE, text.encode())
    return (
        f"it has no chat template, so the default, {DEFAULT}, was put in: 'User: …', then 'Assistant: …' with"
        f" the token that ends a text; {_WAY_OUT} to have another"
    )


def template_warnings(staging: Staging) -> tuple[str, ...]:
    """A warning if no chat template holds by default: training, evaluation and questions need one."""
    if CHAT_TEMPLATE_FILE in staging:
        return ()
    names = _stated_templates(staging)
    if DEFAULT_TEMPLATE in names:
        return ()
    lacks = (
        f"its chat templates ({', '.join(sorted(names))}) have no default"
        if names
        else "it has no chat template"
    )
    return (f"{lacks}, so it cannot be trained on, evaluated or asked: {_WAY_OUT}",)


def token_warnings(staging: Staging, *, embeddings: int | None) -> tuple[str, ...]:
    """A warning if the tokenizer has tokens without an embedding: text that holds one cannot be read."""
    if embeddings is None or VOCABULARY_FILE not in staging:
        return ()
    ids = _vocabulary(staging)
    beyond = sorted((index, token) for token, index in ids.items() if index >= embeddings)
    if not beyond:
        return ()
    shown = ", ".join(repr(token) for _, token in beyond[:_SHOWN_TOKENS])
    more = ", …" if len(beyond) > _SHOWN_TOKENS else ""
    found = f"its tokenizer has {len(beyond)} tokens without an embedding ({shown}{more})"
    return (f"{found}: the weights have {embeddings}; text that holds one cannot be read",)


def _processor_templates(folder: Path, names: frozenset[str]) -> Mapping[str, str]:
    if _PROCESSOR_TEMPLATE_FILE not in names:
        return {}
    return templates_of(
        read_json(followed(folder, _PROCESSOR_TEMPLATE_FILE), own_code=True).get("chat_template")
    )


def _stated_templates(staging: Staging) -> Mapping[str, str]:
    if TOKENIZER_CONFIG_FILE not in staging:
        return {}
    return templates_of(read_json(staging[TOKENIZER_CONFIG_FILE].path, own_code=True).get("chat_template"))


def _require_tokens(name: str, staging: Staging) -> None:
    if VOCABULARY_FILE not in staging:
        return
    known = _vocabulary(staging)
    lacking = [token for token in CHAT_TEMPLATES[name].tokens if token not in known]
    if lacking:
        raise InvalidBase(
            f"--chat-template {name} writes {', '.join(lacking)}, which the tokenizer does not have as"
            f" tokens; take {DEFAULT}, or the template that the model was trained with"
        )


def _read_template(asked: str, own: Mapping[str, str]) -> str:
    path = Path(asked)
    if not path.exists():
        names = ", ".join(dict.fromkeys((*CHAT_TEMPLATES, *own)))
        raise InvalidBase(f"--chat-template {asked} is neither a file nor a name; names are {names}")
    try:
        return read_bounded(path, limit_bytes=TEMPLATE_LIMIT_BYTES, refusal=InvalidBase).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidBase(f"{path} is not UTF-8: {exc}") from exc


def _vocabulary(staging: Staging) -> Mapping[str, int]:
    # Not a configuration: larger than one may be, and its keys are tokens.
    data = read_bounded(staging[VOCABULARY_FILE].path, limit_bytes=LIMIT_BYTES, refusal=InvalidBase)
    return token_ids(parse_object(data, what=VOCABULARY_FILE, refusal=InvalidBase))
