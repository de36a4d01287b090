"""mistral.rs's folder: the original package's, with other defaults, and a file that numbers the layers.

xlora-ordering.json                {"order": [names], "layers": {module path: index of its scalings},
                                    "base_model_id": …}
<name>_adapter_config.json         each expert; mistral.rs looks into no folder below a local one
<name>_adapter_model.safetensors
base/                              the base model as mistral.rs reads it, if one is written

Source: mistral.rs 0.9.5, tried by its Python package.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from formats.peft import CONFIG_FILE, WEIGHTS_FILE
from xlora_engine.errors import NotRepresentable, SavedFileUnreadable
from xlora_engine.saved.expert_folders import Adapters, flat_prefix
from xlora_engine.saved.foreign_config import ORIGINAL_FIELDS, Dialect, Inexact, read_fields
from xlora_engine.saved.mistralrs_base import BASE_FOLDER, write_base
from xlora_engine.saved.original_format import (
    CONFIG_FILE as HEAD_CONFIG_FILE,
)
from xlora_engine.saved.original_format import (
    HEAD_FILE,
    NEUTRAL,
    read_original,
    write_config_and_head,
)
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.adapter_weights import Expert, write_expert

#: Base models that the X-LoRA of mistral.rs 0.9.5 loads. StarCoder 2 it loads without grouped queries alone,
#: which no published one lacks; for others its Python package ends in a panic.
LOADED = frozenset(
    {
        "Gemma2ForCausalLM",
        "GemmaForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "Phi3ForCausalLM",
        "PhiForCausalLM",
    }
)

ORDERING_FILE = "xlora-ordering.json"
_ORDERING_FILES = "*ordering*.json"

DIALECT = Dialect(
    layout="mistralrs",
    shared=ORIGINAL_FIELDS,
    defaults=MappingProxyType({"enable_relu_and_dropout": False, "xlora_size": 1}),
    neutral=NEUTRAL,
    inexact=(
        Inexact(
            field="enable_softmax_topk",
            asks=lambda config: config.enable_softmax_topk,
            reason="mistral.rs does not implement it",
        ),
    ),
)


def has_ordering(folder: Path) -> bool:
    """Whether a folder holds an ordering file."""
    return any(folder.glob(_ORDERING_FILES))


def read_mistralrs(folder: Path, given: Adapters | None) -> SavedModel:
    """Read the folder, layers in the order of the ordering file; raises as `read_original`."""
    path = min(folder.glob(_ORDERING_FILES))
    ordering = read_fields(path)
    order, layers = ordering.get("order"), ordering.get("layers")
    saved = read_original(folder, given, DIALECT)
    if isinstance(order, list) and given is None and tuple(order) != saved.config.adapters:
        raise SavedFileUnreadable(
            f"{path} orders the experts {order}, the configuration {list(saved.config.adapters)}; "
            "fix one, or give them in the order of their training: adapters={name: folder, …}"
        )
    if layers is None:
        return _one_for_all(saved)
    return replace(saved, layers=_by_index(layers, path))


def write_mistralrs(saved: SavedModel, folder: Path, destination: Path) -> None:
    """Write the folder's files, with the base model if there is one to write; the path it will have names it.

    mistral.rs applies dropout in the head even in inference, so the dropout written is 0; it knows only
    alpha / r, so an expert's alpha is written as its scale times its rank.

    Raises:
        NotRepresentable: naming the field that mistral.rs cannot honour.
    """
    config = DIALECT.written(saved.config)
    if saved.layers is None:
        raise NotRepresentable("mistralrs", "layers", "the numbering of layers is not known without a base")
    if saved.architecture not in (None, *LOADED):
        known = f"its X-LoRA loads {', '.join(sorted(LOADED))}, not {saved.architecture}"
        raise NotRepresentable("mistralrs", "base_model_id", known)
    base_id = saved.base_id if saved.base_folder is None else str(destination / BASE_FOLDER)
    if not base_id:
        raise NotRepresentable(
            "mistralrs",
            "base_model_id",
            "it must be the model that mistral.rs is told to load; give the base model's name on the hub"
            " (base_id, --base-id), or let the base model be written beside it (--with-base)",
        )
    _require_distinct(saved)
    _require_same_targets(saved)
    _require_whole_blocks(saved.layers)
    plain = _with_head_as_wide_as_the_base(replace(saved, base_id=base_id))
    config |= {"xlora_dropout_p": 0.0, "xlora_size": plain.config.xlora_size}
    write_config_and_head(plain, folder, config, stride=1)
    for expert in map(_plain, saved.experts):
        write_expert(folder, expert, expert.updates, prefix=flat_prefix(expert.name))
    ordering = {
        "order": list(saved.config.adapters),
        "layers": {path: index for index, path in enumerate(saved.layers)},
        "base_model_id": base_id,
    }
    (folder / ORDERING_FILE).write_text(json.dumps(ordering, indent=2) + "\n", encoding="utf-8")
    if saved.base_folder is not None:
        write_base(saved.base_folder, folder / BASE_FOLDER)


def _with_head_as_wide_as_the_base(saved: SavedModel) -> SavedModel:
    """The head with inner layers padded to the base's width, which mistral.rs takes the last layer to have.

    A unit of zeros gives 0 with and without ReLU, and weighs nothing in the next layer: the same gates.
    """
    config, head = saved.config, dict(saved.head)
    width, depth = head["layers.0.weight"].shape[1], config.xlora_depth
    if depth == 1:
        return saved
    if config.xlora_size > width:
        raise NotRepresentable(
            "mistralrs",
            "xlora_size",
            f"it reads heads whose inner layers are as wide as the base model, {width}, or padded to it, and"
            f" {config.xlora_size} is wider; compose with a width of {width} at most",
        )
    for number in range(depth):
        inner, inward = number < depth - 1, number > 0
        for kind in ("weight", "bias"):
            name = f"layers.{number}.{kind}"
            if name not in head:
                continue
            tensor = head[name].detach()
            wider = torch.zeros(
                width if inner else tensor.shape[0],
                *((width if inward else tensor.shape[1],) if kind == "weight" else ()),
                dtype=tensor.dtype,
            )
            wider[tuple(slice(size) for size in tensor.shape)] = tensor
            head[name] = wider
    return replace(saved, config=replace(config, xlora_size=width), head=head)


def _by_index(layers: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(layers, dict) or sorted(map(repr, layers.values())) != sorted(
        map(repr, range(len(layers)))
    ):
        raise SavedFileUnreadable(f"{path}: layers must give each module its own index, 0, 1, …")
    return tuple(sorted(layers, key=layers.__getitem__))


def _one_for_all(saved: SavedModel) -> SavedModel:
    """Without a numbering of layers, mistral.rs uses the first layer's scalings for all."""
    last, experts = f"layers.{saved.config.xlora_depth - 1}.", len(saved.experts)
    head: dict[str, Tensor] = {
        key: tensor[:experts] if key.startswith(last) else tensor for key, tensor in saved.head.items()
    }
    return replace(saved, config=replace(saved.config, layerwise_scalings=False), head=head)


def _require_distinct(saved: SavedModel) -> None:
    """mistral.rs takes every file whose name contains an expert's name for a file of that expert."""
    others = (HEAD_FILE, HEAD_CONFIG_FILE, ORDERING_FILE)
    for expert in saved.experts:
        for file in (*others, *_files_of_all_but(expert, saved)):
            if expert.name in file:
                raise NotRepresentable(
                    "mistralrs",
                    "adapters",
                    f"it would take {file} for expert {expert.name!r} too, which it names; rename one",
                )


def _files_of_all_but(expert: Expert, saved: SavedModel) -> Iterator[str]:
    for other in saved.experts:
        if other.name != expert.name:
            yield from (f"{flat_prefix(other.name)}{file}" for file in (CONFIG_FILE, WEIGHTS_FILE))


def _require_same_targets(saved: SavedModel) -> None:
    first = saved.experts[0]
    for expert in saved.experts:
        if expert.updates.keys() != first.updates.keys():
            raise NotRepresentable(
                "mistralrs",
                "target_modules",
                f"all experts must adapt the same modules, {expert.name!r} and {first.name!r} do not",
            )


def _require_whole_blocks(layers: tuple[str, ...]) -> None:
    """mistral.rs adapts the modules of a name in every block, so no block may be left out."""
    blocks: dict[str, list[int]] = {}
    for path in layers:
        parts = path.split(".")
        if parts[:2] != ["model", "layers"] or not parts[2].isdecimal():
            raise NotRepresentable(
                "mistralrs", "target_modules", f"it adapts only projections of blocks, not {path!r}"
            )
        blocks.setdefault(".".join(parts[3:]), []).append(int(parts[2]))
    longest = max(map(len, blocks.values()))
    for name, numbers in blocks.items():
        if sorted(numbers) != list(range(longest)):
            raise NotRepresentable(
                "mistralrs", "layers_to_transform", f"{name!r} is adapted in some blocks and not in others"
            )


def _plain(expert: Expert) -> Expert:
    updates = expert.updates.values()
    for field, values in (
        ("rank_pattern", {update.rank for update in updates}),
        ("alpha_pattern", {update.scale for update in updates}),
    ):
        if len(values) > 1:
            raise NotRepresentable(
                "mistralrs", field, f"expert {expert.name!r} must have one value for all of its modules"
            )
    rank, scale = next((update.rank, update.scale) for update in updates)
    config = {
        **expert.config,
        "r": rank,
        "lora_alpha": scale * rank,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": sorted({path.rpartition(".")[2] for path in expert.updates}),
    }
    return replace(expert, config=config)
