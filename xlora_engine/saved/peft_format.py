"""PEFT's X-LoRA folder: `adapter_config.json` of type XLORA, and the head as `internal_xlora_classifier`.

Experts are named by their index, "0", "1", …, with the paths they had when trained; PEFT to 0.19 also
writes each to a sub-folder, among tensors of the base model and of other experts. A head's layers are
numbered with ReLU and dropout counted: in steps of 3, or of 2 if dropout is 0.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from formats.peft import CONFIG_FILE, KEY_PREFIX, PICKLED_WEIGHTS_FILE, WEIGHTS_FILE, config_text
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import (
    ExpertUnreadable,
    HeadIncomplete,
    NotRepresentable,
    SavedFileUnreadable,
)
from xlora_engine.saved.expert_folders import Adapters, ExpertFiles, expert_files, expert_names
from xlora_engine.saved.foreign_config import (
    PEFT_FIELDS,
    SELECTS_FOR_SCALING_PASS,
    TEMPERATURE_IGNORED,
    Dialect,
    Inexact,
    config_of,
    read_fields,
)
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.adapter_weights import Expert, read_expert, write_expert
from xlora_engine.sources.weights_file import load_weights

PEFT_TYPE = "XLORA"
_HEAD_KEY = re.compile(r"(?:.*\.)?internal_xlora_classifier\.layers\.(\d+)\.(weight|bias)")
_HEAD_PREFIX = "base_model.internal_xlora_classifier.layers"
#: The prefix in sub-folders instead of `KEY_PREFIX`: there the LoRA model is inside the X-LoRA model.
_NESTED_PREFIX = "base_model.lora_model.model."
#: Versions that lose every tensor whose key holds another expert's name between dots.
_LOSING_VERSIONS = re.compile(r"0\.(20\.\d+|21\.[012])\b.*")

DIALECT = Dialect(
    layout="peft",
    shared=PEFT_FIELDS,
    otherwise=frozenset({"enable_relu_and_dropout", "use_bias"}),
    defaults=MappingProxyType({}),
    neutral=frozenset(
        {
            "adapters",
            "auto_mapping",
            "base_model_name_or_path",
            "inference_mode",
            "peft_type",
            "peft_version",
            "revision",
            "task_type",
        }
    ),
    inexact=(
        Inexact(
            field="enable_relu_and_dropout",
            asks=lambda config: not config.enable_relu_and_dropout and config.xlora_depth > 1,
            reason="PEFT always puts a ReLU between the layers of a head",
        ),
        SELECTS_FOR_SCALING_PASS,
        TEMPERATURE_IGNORED,
    ),
)


def is_peft_xlora(folder: Path) -> bool:
    """Whether a folder's adapter configuration is of an X-LoRA model."""
    try:
        return bool(read_fields(folder / CONFIG_FILE).get("peft_type") == PEFT_TYPE)
    except SavedFileUnreadable:
        return False


def read_peft(folder: Path, given: Adapters | None) -> SavedModel:
    """Read the folder; `given` says where experts are, and may name those that PEFT only numbers.

    Raises:
        HeadIncomplete: layers of the head are missing, as PEFT 0.20 to 0.21.2 leave them.
        SavedModelInvalid: another file is missing or damaged, or cannot be computed exactly.
        ExpertInvalid: an expert cannot be used.
    """
    found = read_fields(folder / CONFIG_FILE)
    listed = found.get("adapters")
    if not isinstance(listed, dict) or not all(isinstance(path, str) for path in listed.values()):
        raise SavedFileUnreadable(f"{folder / CONFIG_FILE}: adapters must be names with paths")
    names = expert_names(listed, given)
    config = config_of(found, DIALECT, names=names, path=folder / CONFIG_FILE)
    head = _read_head(folder, config, version=str(found.get("peft_version", "an unnamed version")))
    files = expert_files(folder, names, listed, given)
    base_id = found.get("base_model_name_or_path")
    return SavedModel(
        config=config,
        experts=tuple(_read_expert(at, name) for name, at in files.items()),
        head=head,
        base_id=base_id if isinstance(base_id, str) and base_id else None,
    )


def write_peft(saved: SavedModel, folder: Path, destination: Path) -> None:
    """Write the folder's files; PEFT will look for the experts below `destination`, its final path.

    Raises:
        NotRepresentable: PEFT computes something else with this configuration, or cannot find a module.
    """
    config = DIALECT.written(saved.config)
    for expert in saved.experts:
        _require_found(expert)
    folders = {str(i): str(destination / expert.name) for i, expert in enumerate(saved.experts)}
    written: dict[str, Any] = {
        **config,
        "adapters": folders,
        "base_model_name_or_path": saved.base_id,
        "inference_mode": True,
        "peft_type": PEFT_TYPE,
        "task_type": "CAUSAL_LM",
    }
    (folder / CONFIG_FILE).write_text(config_text(written), encoding="utf-8")
    save_file(_named(saved.head, saved.config), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    for expert in saved.experts:
        write_expert(folder / expert.name, expert, expert.updates)


def _require_found(expert: Expert) -> None:
    stray = next((path for path in expert.updates if not path.startswith("model.")), None)
    if stray is not None:
        raise NotRepresentable(
            "peft",
            "target_modules",
            f"PEFT's reader finds only modules below 'model.' (huggingface/peft#2132), "
            f"and expert {expert.name!r} adapts {stray!r}",
        )


def _named(head: Mapping[str, Tensor], config: XLoraConfig) -> dict[str, Tensor]:
    stride = 3 if config.xlora_dropout_p > 0 else 2
    named = {}
    for number in range(config.xlora_depth):
        weight = head[f"layers.{number}.weight"].detach().cpu().contiguous()
        bias = head.get(f"layers.{number}.bias")
        # PEFT's layers always have a bias; a bias of zeros is equivalent to none.
        bias = torch.zeros_like(weight[:, 0]) if bias is None else bias.detach().cpu()
        named[f"{_HEAD_PREFIX}.{stride * number}.weight"] = weight
        named[f"{_HEAD_PREFIX}.{stride * number}.bias"] = bias.contiguous()
    return named


def _read_head(folder: Path, config: XLoraConfig, *, version: str) -> dict[str, Tensor]:
    layers: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_weights(folder / WEIGHTS_FILE, pickled=PICKLED_WEIGHTS_FILE).items():
        named = _HEAD_KEY.fullmatch(key)
        if named is not None:
            layers.setdefault(int(named[1]), {})[named[2]] = tensor
    stride = 3 if config.xlora_dropout_p > 0 else 2
    missing = sorted({stride * number for number in range(config.xlora_depth)} - layers.keys())
    is_whole = len(layers) == config.xlora_depth and 0 in layers
    if not is_whole:  # numbers in other steps are valid: the dropout was changed afterwards
        raise HeadIncomplete(
            f"{folder / WEIGHTS_FILE} lacks layers {', '.join(map(str, missing))} of the scaling head: PEFT "
            f"0.20 to 0.21.2 lose those whose number is an expert's name (this was saved by {version}). They "
            "are in no file: save again from the process that still holds the model, with PEFT 0.19.1, or "
            "train the head again"
        )
    return {
        f"layers.{index}.{kind}": tensor
        for index, number in enumerate(sorted(layers))
        for kind, tensor in layers[number].items()
    }


def _read_expert(files: ExpertFiles, name: str) -> Expert:
    def own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if not any(key.startswith(_NESTED_PREFIX) for key in tensors):
            return tensors
        version = str(read_fields(files.folder / f"{files.prefix}{CONFIG_FILE}").get("peft_version"))
        if _LOSING_VERSIONS.fullmatch(version):
            raise ExpertUnreadable(
                f"expert {name!r}: PEFT {version} lost tensors when it wrote {files.folder}; give what it was"
                f" made of: adapters={{{name!r}: folder}}"
            )
        return {
            f"{KEY_PREFIX}{key.removeprefix(_NESTED_PREFIX)}": tensor
            for key, tensor in tensors.items()
            if key.startswith(_NESTED_PREFIX) and _OWN_KEY.search(key)
        }

    return read_expert(files.folder, name, prefix=files.prefix, select=own)


#: Ends of an expert's own keys; those of other experts end in their names.
_OWN_KEY = re.compile(r"\.lora_(?:[AB]\.weight|embedding_[AB])$")
