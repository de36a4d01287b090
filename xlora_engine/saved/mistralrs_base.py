"""A base model as mistral.rs reads it: RoPE where older configurations have it, and a head of its own."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from formats.strict_json import read_object
from xlora_engine.errors import NotRepresentable, SavedFileUnreadable

BASE_FOLDER = "base"
_CONFIG_FILE = "config.json"
_INDEX_FILE = "model.safetensors.index.json"
_WEIGHTS = "*.safetensors"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def write_base(source: Path, folder: Path) -> None:
    """Copy a base model's folder to a new one that mistral.rs loads.

    Raises:
        SavedFileUnreadable: the source has no configuration.
        NotRepresentable: it holds no embeddings that a head could be made of.
    """
    folder.mkdir()
    weights = sorted(source.glob(_WEIGHTS))
    for path in sorted(source.iterdir()):
        if path.is_file() and path not in weights and path.name not in (_CONFIG_FILE, _INDEX_FILE):
            shutil.copyfile(path, folder / path.name)
    config = read_object(source / _CONFIG_FILE, refusal=SavedFileUnreadable)
    (folder / _CONFIG_FILE).write_text(_text(_older(config)), encoding="utf-8")
    _write_weights(weights, folder)


def _write_weights(weights: Sequence[Path], folder: Path) -> None:
    """Copy files of weights, and write one more with a head if there is none, named as parts of one model.

    Files of other names are not read.
    """
    tied = _tied_head({key: path for path in weights for key in _keys(path)})
    parts = len(weights) + bool(tied)
    names = [f"model-{part:05}-of-{parts:05}.safetensors" for part in range(1, parts + 1)]
    for path, name in zip(weights, names, strict=False):
        shutil.copyfile(path, folder / name)
    if tied:
        save_file(tied, folder / names[-1], metadata={"format": "pt"})
    places = {key: name for name in names for key in _keys(folder / name)}
    (folder / _INDEX_FILE).write_text(_text({"metadata": {}, "weight_map": places}), encoding="utf-8")


def _tied_head(files: Mapping[str, Path]) -> dict[str, Tensor]:
    """The embeddings as the output head, by its name; empty if the files hold a head of their own."""
    if _HEAD in files:
        return {}
    if _EMBEDDING not in files:
        raise NotRepresentable("mistralrs", _HEAD, f"the base model has neither it nor {_EMBEDDING}")
    with safe_open(files[_EMBEDDING], framework="pt") as weights:
        return {_HEAD: weights.get_tensor(_EMBEDDING)}


def _keys(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as weights:
        return list(weights.keys())


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"


def _older(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with RoPE as transformers wrote it before release 5, and the head that is written."""
    older = dict(config) | {"tie_word_embeddings": False}
    rope = dict(older.pop("rope_parameters", None) or {})
    for field in ("rope_theta", "partial_rotary_factor"):
        if field in rope:
            older[field] = rope.pop(field)
    if rope.get("rope_type", "default") != "default":
        older["rope_scaling"] = rope
    return older
