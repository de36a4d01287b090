"""The folder of the original package (github.com/EricLBuehler/xlora), in which models are published too.

xlora_config.json               fields of its xLoRAConfig; experts as a list of names, or names with paths
xlora_classifier.safetensors    inner.{j}.weight|bias, last.weight|bias
<name>/                         each expert, as PEFT saves a LoRA

With ReLU and dropout counted, layers are `inner.0`, `inner.3`, …; without, `inner.0`, `inner.1`, ….
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from xlora_engine.config import XLoraConfig
from xlora_engine.errors import HeadIncomplete, SavedFileUnreadable
from xlora_engine.saved.expert_folders import Adapters, expert_files, expert_names
from xlora_engine.saved.foreign_config import (
    ORIGINAL_FIELDS,
    SELECTS_FOR_SCALING_PASS,
    TEMPERATURE_IGNORED,
    Dialect,
    Inexact,
    config_of,
    read_fields,
)
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.adapter_weights import read_expert, write_expert
from xlora_engine.sources.weights_file import load_weights

CONFIG_FILE = "xlora_config.json"
HEAD_FILE = "xlora_classifier.safetensors"
PICKLED_HEAD_FILE = "xlora_classifier.pt"

#: `stop_token_id` and `use_cache` are of older versions; `model_type` and `device` describe the process.
NEUTRAL = frozenset({"adapters", "base_model_id", "device", "model_type", "stop_token_id", "use_cache"})

DIALECT = Dialect(
    layout="xlora",
    shared=ORIGINAL_FIELDS,
    defaults=MappingProxyType({}),
    neutral=NEUTRAL,
    inexact=(
        Inexact(
            field="enable_softmax_topk",
            asks=lambda config: config.enable_softmax_topk,
            reason="the original package normalises over all tokens of a batch at once "
            "(huggingface/peft#2786), so that later tokens change earlier ones",
        ),
        SELECTS_FOR_SCALING_PASS,
        TEMPERATURE_IGNORED,
    ),
)


def read_original(folder: Path, given: Adapters | None, dialect: Dialect = DIALECT) -> SavedModel:
    """Read the folder; `given` says where experts are that it does not hold.

    Raises:
        SavedModelInvalid: a file is missing or damaged, or asks for what cannot be computed exactly.
        ExpertInvalid: an expert cannot be used.
    """
    found = read_fields(folder / CONFIG_FILE)
    listed = _listed(found.get("adapters"), folder)
    names = expert_names(listed, given)
    if not names:
        raise SavedFileUnreadable(
            f"{folder / CONFIG_FILE} names no experts; give them in the order of their training: "
            "adapters={name: folder, …}"
        )
    config = config_of(found, dialect, names=names, path=folder / CONFIG_FILE)
    files = expert_files(folder, names, listed, given)
    base_id = found.get("base_model_id")
    return SavedModel(
        config=config,
        experts=tuple(read_expert(at.folder, name, prefix=at.prefix) for name, at in files.items()),
        head=_read_head(folder, config),
        base_id=base_id if isinstance(base_id, str) else None,
    )


def write_original(saved: SavedModel, folder: Path) -> None:
    """Write the folder's files.

    Raises:
        NotRepresentable: the original package computes something else with this configuration.
    """
    stride = 3 if saved.config.enable_relu_and_dropout else 1
    write_config_and_head(saved, folder, DIALECT.written(saved.config), stride=stride)
    for expert in saved.experts:
        write_expert(folder / expert.name, expert, expert.updates)


def write_config_and_head(saved: SavedModel, folder: Path, config: Mapping[str, Any], *, stride: int) -> None:
    """All but the experts; inner layers are numbered in steps of `stride`."""
    written = {**config, "adapters": list(saved.config.adapters), "base_model_id": saved.base_id or ""}
    (folder / CONFIG_FILE).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    save_file(_named(saved.head, saved.config.xlora_depth, stride), folder / HEAD_FILE)


def _named(head: Mapping[str, Tensor], depth: int, stride: int) -> dict[str, Tensor]:
    names = {str(i): f"inner.{stride * i}" for i in range(depth - 1)} | {str(depth - 1): "last"}
    named = {}
    for key, tensor in head.items():
        _, number, kind = key.split(".")
        named[f"{names[number]}.{kind}"] = tensor.detach().cpu().contiguous()
    return named


def _listed(adapters: Any, folder: Path) -> dict[str, str]:
    """Expert names in order, with the path of each when it was trained."""
    if adapters is None:
        return {}
    if isinstance(adapters, list):
        adapters = dict.fromkeys(adapters, "") if all(isinstance(name, str) for name in adapters) else None
    if not isinstance(adapters, dict) or not all(isinstance(path, str) for path in adapters.values()):
        raise SavedFileUnreadable(
            f"{folder / CONFIG_FILE}: adapters must be a list of names, or names with paths"
        )
    return adapters


def _read_head(folder: Path, config: XLoraConfig) -> dict[str, Tensor]:
    tensors = load_weights(folder / HEAD_FILE, pickled=PICKLED_HEAD_FILE)
    layers: dict[int | None, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        number = layer.removeprefix("inner.")
        if layer != "last" and not (layer.startswith("inner.") and number.isdecimal()):
            raise SavedFileUnreadable(f"{folder / HEAD_FILE} holds {key!r}, which is no layer of a head")
        layers.setdefault(None if layer == "last" else int(number), {})[kind] = tensor
    last = layers.pop(None, None)
    numbers = sorted(number for number in layers if number is not None)
    if numbers == [0, *range(3, 3 * len(numbers), 3)] and not config.enable_relu_and_dropout and numbers[1:]:
        raise SavedFileUnreadable(
            f"{folder / HEAD_FILE} numbers its layers {numbers}, with ReLU and dropout between them, where "
            f"{CONFIG_FILE} leaves enable_relu_and_dropout off; set it to true"
        )
    inner = [layers[number] for number in numbers]
    if last is None or len(inner) != config.xlora_depth - 1:
        raise HeadIncomplete(
            f"{folder / HEAD_FILE} holds {len(inner)} inner layers and {'a' if last else 'no'} last one, "
            f"where xlora_depth = {config.xlora_depth} asks for {config.xlora_depth - 1} and a last one"
        )
    return {f"layers.{i}.{kind}": t for i, found in enumerate([*inner, last]) for kind, t in found.items()}
