"""What a base model folder that can be loaded still cannot be used for: said when it is registered."""

from collections.abc import Mapping
from typing import Any

from registry.errors import InvalidBase
from registry.files.staging import Staging
from registry.intake.base_config import CHAT_TEMPLATE_FILE, BaseConfig, read_json

_TOKENIZER_FILE = "tokenizer.json"
#: The template that transformers takes where several have names.
_DEFAULT = "default"
_SHOWN_TOKENS = 3


def require_head(config: BaseConfig, modules: Mapping[str, Any], *, heads: tuple[str, ...]) -> None:
    """Do nothing if the model has an output head.

    Raises:
        InvalidBase: it is not the embedding's, by the configuration, and no weight of it is there.
    """
    if not config.has_tied_head and not any(path.rpartition(".")[2] in heads for path in modules):
        raise InvalidBase(
            "config.json says that the output head is not tied to the embedding, and the weights hold none"
            f" ({' or '.join(heads)}); fetch the model again, or set tie_word_embeddings if it is tied"
        )


def template_warnings(staging: Staging, tokenizer_config: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning if no chat template holds by default: training, evaluation and questions need one."""
    if CHAT_TEMPLATE_FILE in staging:
        return ()
    template = tokenizer_config.get("chat_template")
    way_out = f"add {CHAT_TEMPLATE_FILE} to its folder and register that"
    if not template:
        return (f"it has no chat template, so it cannot be trained on, evaluated or asked: {way_out}",)
    names = _template_names(template)
    if names and _DEFAULT not in names:
        found = f"its chat templates ({', '.join(names)}) have no default"
        return (f"{found}, so it cannot be trained on, evaluated or asked: {way_out}",)
    return ()


def token_warnings(staging: Staging, *, embeddings: int | None) -> tuple[str, ...]:
    """A warning if the tokenizer has tokens without an embedding: text that holds one cannot be read."""
    if embeddings is None or _TOKENIZER_FILE not in staging:
        return ()
    ids = _token_ids(read_json(staging[_TOKENIZER_FILE].path))
    beyond = sorted((index, token) for token, index in ids.items() if index >= embeddings)
    if not beyond:
        return ()
    shown = ", ".join(repr(token) for _, token in beyond[:_SHOWN_TOKENS])
    more = ", …" if len(beyond) > _SHOWN_TOKENS else ""
    found = f"its tokenizer has {len(beyond)} tokens without an embedding ({shown}{more})"
    return (f"{found}: the weights have {embeddings}; text that holds one cannot be read",)


def _template_names(template: object) -> list[str]:
    """Names of the templates, where there are several."""
    if isinstance(template, Mapping):
        return sorted(map(str, template))
    if isinstance(template, list):
        return sorted(str(entry.get("name")) for entry in template if isinstance(entry, Mapping))
    return []


def _token_ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id, of the vocabulary and of what was added to it."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, Mapping) else None
    ids: dict[str, int] = {}
    if isinstance(vocabulary, Mapping):
        ids |= {token: index for token, index in vocabulary.items() if isinstance(index, int)}
    elif isinstance(vocabulary, list):  # of a unigram model: pairs of token and score, by id
        ids |= {str(pair[0]): index for index, pair in enumerate(vocabulary) if isinstance(pair, list)}
    added = tokenizer.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), int):
            ids[str(entry.get("content"))] = entry["id"]
    return ids
