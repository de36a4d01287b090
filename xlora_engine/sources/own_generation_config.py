"""The generation configuration of a loaded base model: its token ids, and nothing that decides how to decode.

A base model's `generation_config.json` may ask for sampling, beams, penalties, stop strings and more. How an
answer is decoded is the caller's to decide, so of that file only the token ids are read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from xlora_engine.errors import BaseUnreadable

_FILE = "generation_config.json"
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def token_ids_only(folder: Path, config: PreTrainedConfig) -> GenerationConfig:
    """A configuration with the token ids of the folder's file, or else of the model's configuration.

    Raises:
        BaseUnreadable: the file is no JSON object, or has something else for token ids.
    """
    stated = _stated(folder / _FILE)
    text = config.get_text_config(decoder=True)
    found = {name: stated.get(name, getattr(text, name, None)) for name in _TOKENS}
    for name, value in found.items():
        ids = value if isinstance(value, list) else [value]
        if value is not None and not all(type(one) is int for one in ids):
            raise BaseUnreadable(f"{folder / _FILE}: {name} must be token ids, got {value!r}")
    return GenerationConfig(**found)


def stops_of(config: GenerationConfig) -> tuple[int, ...]:
    """The token ids at which a generation configuration ends an answer."""
    stated = config.eos_token_id
    if stated is None:
        return ()
    return tuple(stated) if isinstance(stated, list) else (stated,)


def _stated(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseUnreadable(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise BaseUnreadable(f"{path} must hold an object, got {found!r}")
    return found
