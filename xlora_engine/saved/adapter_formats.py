"""Every form in which one adapter leaves the zoo, in one table: what is written, and what is said of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from xlora_engine.errors import ConfigInvalid
from xlora_engine.saved.merged_adapter import write_merged
from xlora_engine.saved.vllm_adapter import for_vllm, rank_limit
from xlora_engine.sources.adapter_weights import Expert, write_expert
from xlora_engine.sources.new_folder import filling


@dataclass(frozen=True, kw_only=True)
class SavedAdapter:
    """An adapter to be written, and its base model."""

    expert: Expert
    #: The name of the base model's class.
    architecture: str
    #: The base model's name on the hub.
    base_id: str | None = None
    base_folder: Path
    #: What merged weights are written in.
    dtype: torch.dtype


#: Fills a folder; what is to be known of it, by name, as JSON holds it.
Write = Callable[[SavedAdapter, Path], Mapping[str, Any]]


def _peft(saved: SavedAdapter, folder: Path) -> Mapping[str, Any]:
    write_expert(folder, saved.expert, saved.expert.updates, base_id=saved.base_id)
    return {}


def _vllm(saved: SavedAdapter, folder: Path) -> Mapping[str, Any]:
    expert = for_vllm(saved.expert, saved.architecture)
    write_expert(folder, expert, expert.updates, base_id=saved.base_id)
    return {"max_lora_rank": rank_limit(expert)}


def _merged(saved: SavedAdapter, folder: Path) -> Mapping[str, Any]:
    rounding = write_merged(saved.expert, saved.base_folder, folder, dtype=saved.dtype)
    return {"dtype": str(saved.dtype).removeprefix("torch."), "rounding": rounding}


ADAPTER_FORMATS: Mapping[str, Write] = MappingProxyType({"peft": _peft, "vllm": _vllm, "merged": _merged})


def write_adapter(saved: SavedAdapter, folder: Path, layout: str) -> Mapping[str, Any]:
    """Write an adapter in one of the formats, whole or not at all; what is to be known of it.

    Raises:
        ConfigInvalid: there is no such format.
        SavedModelInvalid: the folder is not empty.
        NotRepresentable: what would read it has no equivalent of a field, which is named.
        ExpertMismatch: the adapter does not fit the base model.
    """
    if layout not in ADAPTER_FORMATS:
        raise ConfigInvalid("format", f"one of {', '.join(ADAPTER_FORMATS)}", layout)
    with filling(folder) as staging:
        return ADAPTER_FORMATS[layout](saved, staging)
