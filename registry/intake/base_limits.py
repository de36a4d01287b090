"""What a base model folder that can be loaded still cannot be used for: said when it is registered."""

from collections.abc import Mapping
from typing import Any

from formats.strict_json import parse_object
from registry.errors import InvalidBase
from registry.files.regular_files import read_bounded
from registry.files.staging import Staging
from registry.intake.base_config import BaseConfig
from registry.intake.tokenizer_files import (
    CHAT_TEMPLATE_FILE,
    DEFAULT_TEMPLATE,
    LIMIT_BYTES,
    VOCABULARY_FILE,
    token_ids,
)

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


def require_layers(config: BaseConfig, tensors: int) -> None:
    """Do nothing if the weights can be those of as many layers as the configuration says.

    Raises:
        InvalidBase: there are fewer tensors than layers, which a loader would begin to build.
    """
    if config.layer_count > tensors:
        raise InvalidBase(
            f"config.json says {config.layer_count} layers, and the weights hold {tensors} tensors; fetch the"
            " model again"
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
    if names and DEFAULT_TEMPLATE not in names:
        found = f"its chat templates ({', '.join(names)}) have no default"
        return (f"{found}, so it cannot be trained on, evaluated or asked: {way_out}",)
    return ()


def token_warnings(staging: Staging, *, embeddings: int | None) -> tuple[str, ...]:
    """A warning if the tokenizer has tokens without an embedding: text that holds one cannot be read."""
    if embeddings is None or VOCABULARY_FILE not in staging:
        return ()
    # Not a configuration: larger than one may be, and its keys are tokens.
    data = read_bounded(staging[VOCABULARY_FILE].path, limit_bytes=LIMIT_BYTES, refusal=InvalidBase)
    ids = token_ids(parse_object(data, what=VOCABULARY_FILE, refusal=InvalidBase))
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
