"""What a base model's JSON files say: sizes and chat template; what makes a library run code is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.strict_json import has_key, parse_object, shown
from registry.errors import InvalidBase
from registry.files.json_text import digest_of
from registry.files.model_card import CARD_FILE, CARD_LIMIT_BYTES
from registry.files.regular_files import read_bounded
from registry.intake.base_kinds import not_causal
from registry.intake.tokenizer_files import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
_JSON_LIMIT_BYTES = 16 * 1024 * 1024
TEMPLATE_LIMIT_BYTES = 1024 * 1024

#: File -> how large it may be, of those that are read whole.
SIZE_LIMITS: Mapping[str, int] = {
    CONFIG_FILE: _JSON_LIMIT_BYTES,
    TOKENIZER_CONFIG_FILE: _JSON_LIMIT_BYTES,
    GENERATION_CONFIG_FILE: _JSON_LIMIT_BYTES,
    "model.safetensors.index.json": _JSON_LIMIT_BYTES,
    CHAT_TEMPLATE_FILE: TEMPLATE_LIMIT_BYTES,
    CARD_FILE: CARD_LIMIT_BYTES,
}

#: Names classes in code that comes with a model; transformers leaves it alone where it has the model itself.
OWN_CODE = "auto_map"
#: Keys that make transformers import code, wherever they are: CVE-2026-4372 is about the second.
_CODE_KEYS = (OWN_CODE, "_attn_implementation_internal", "trust_remote_code")

#: What saving the same model again may change; it says nothing of what the model computes.
_VOLATILE = {"_name_or_path", "_model_name_or_path", "_commit_hash", "transformers_version"}

#: A size -> the names it has in one family of models or another.
_SIZE_NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "vocab_size": ("vocab_size",),
}


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The part of a config.json that the registry keeps."""

    architecture: str
    model_type: str
    hidden_size: int
    layer_count: int
    vocabulary_size: int
    #: Whether the output head shares the embedding's weight, and so has none in the file.
    has_tied_head: bool
    digest: str


def read_base_config(folder: Path, *, own_code: bool = False) -> BaseConfig:
    """Read config.json; with `own_code` it may name code of its own, as in `read_json`.

    Raises:
        InvalidBase: it is absent, makes transformers run code, is of a quantised model or of one that is no
            causal language model, or lacks a size.
    """
    config = read_json(folder / CONFIG_FILE, own_code=own_code)
    if config.get("quantization_config"):
        raise InvalidBase(
            f"{CONFIG_FILE}: quantization_config is set; adapters are trained on plain weights here: register"
            " the model that was quantised, or a dequantised copy"
        )
    if instead := not_causal(config):
        raise InvalidBase(
            f"{CONFIG_FILE}: {instead}; adapters are trained and composed here on causal language models"
        )
    text = config.get("text_config")
    sizes = text if isinstance(text, dict) else config
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise InvalidBase(f"{CONFIG_FILE}: architectures must name a class, got {shown(architectures)}")
    tied = config.get("tie_word_embeddings", sizes.get("tie_word_embeddings"))
    return BaseConfig(
        architecture=architectures[0],
        model_type=str(config.get("model_type", "")),
        hidden_size=_size("hidden_size", sizes),
        layer_count=_size("num_hidden_layers", sizes),
        vocabulary_size=_size("vocab_size", sizes),
        has_tied_head=tied is not False,
        digest=digest_of({key: value for key, value in config.items() if key not in _VOLATILE}),
    )


def read_chat_template(folder: Path, *, tokenizer_config: Mapping[str, Any]) -> str | None:
    """Digest of the chat template: its own file, else the field of the tokenizer's configuration.

    Raises:
        InvalidBase: the file is a link or the like, larger than any template, or no text.
    """
    path = folder / CHAT_TEMPLATE_FILE
    if path.exists() or path.is_symlink():
        data = read_bounded(path, limit_bytes=TEMPLATE_LIMIT_BYTES, refusal=InvalidBase)
        try:
            return digest_of(data.decode("utf-8"))
        except UnicodeDecodeError as exc:
            raise InvalidBase(f"{path.name} is not UTF-8: {exc}") from exc
    template = tokenizer_config.get("chat_template")
    return digest_of(template) if template else None


def read_json(path: Path, *, own_code: bool = False) -> dict[str, Any]:
    """A JSON object from a model folder, free of keys that make a library run code; raises InvalidBase.

    With `own_code` it may name code that comes with the model, where a loader proves that it does without.
    """
    data = read_bounded(path, limit_bytes=_JSON_LIMIT_BYTES, refusal=InvalidBase)
    found = parse_object(data, what=path.name, refusal=InvalidBase)
    for key in _CODE_KEYS:
        if own_code and key == OWN_CODE:
            continue
        if has_key(found, key):
            raise InvalidBase(
                f"{path.name}: {key} makes transformers import code that comes with the model; only"
                " architectures that transformers has itself can be registered"
            )
    return found


def _size(field: str, sizes: Mapping[str, Any]) -> int:
    for name in _SIZE_NAMES[field]:
        value = sizes.get(name)
        if value is None:
            continue
        if type(value) is not int or not 0 < value < 2**31:
            raise InvalidBase(f"{CONFIG_FILE}: {name} must be a whole number above 0, got {shown(value)}")
        return value
    raise InvalidBase(f"{CONFIG_FILE} has no {field}; it is no language model of transformers")
