"""The weights of a base model folder: found, told by their headers before a byte is copied, then copied."""

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.strict_json import shown
from registry.errors import InvalidBase, WeightsInvalid
from registry.files.digests import weights_digest
from registry.files.file_kinds import FileKind, kind_of_name
from registry.files.linked_files import followed
from registry.files.safetensors_file import TensorEntry, opened_tensors
from registry.files.staging import Staging
from registry.intake.base_config import BaseConfig, read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")


@dataclass(frozen=True, kw_only=True)
class ProvenBase:
    """What the library that loads a base model makes of its configuration and the names of its weights."""

    #: Path in the loaded model -> (d_out, d_in); of an embedding (vocabulary, width).
    modules: Mapping[str, tuple[int, int]]
    warnings: tuple[str, ...] = ()
    #: The chat template to put in where there is none.
    template: str | None = None


#: What a tensor's name begins with, or has inside, that was saved from inside another module -> which.
_WRAPPERS = (
    (re.compile(r"^base_model\.model\."), "a model with PEFT's adapters in it: merge them, or unload them"),
    (re.compile(r"(^|\.)_orig_mod\."), "a compiled model"),
    (re.compile(r"(^|\.)_fsdp_wrapped_module\."), "a model in FSDP"),
    (re.compile(r"(^|\.)_checkpoint_wrapped_module\."), "a model with activation checkpointing around it"),
    (re.compile(r"^module\."), "a model in DataParallel or DeepSpeed"),
)

#: Proves that a folder of configuration and tokenizer, with weights of these names, dtypes and shapes, is a
#: base model; raises InvalidBase where it is none.
Prove = Callable[[Path, tuple[TensorEntry, ...]], ProvenBase]


@dataclass(frozen=True, kw_only=True)
class FoundWeights:
    """Which files hold the weights, and what their headers say."""

    shards: tuple[str, ...]
    #: Tensor -> shard, as the index says; None where one file holds all.
    weight_map: Mapping[str, str] | None
    entries: tuple[TensorEntry, ...]


@dataclass(frozen=True, kw_only=True)
class StagedWeights:
    """Copied weights, with their digest."""

    shards: tuple[str, ...]
    entries: tuple[TensorEntry, ...]
    digest: str


def find_weights(folder: Path, names: frozenset[str], staging: Staging) -> FoundWeights:
    """The weights of a folder with files of these names, by their headers; the index is among the copies.

    Raises:
        InvalidBase: there are none, a header is damaged, the index contradicts the headers, or the weights
            were saved from inside another module.
    """
    weight_map = None if SINGLE_FILE in names else _weight_map(folder, names, staging)
    shards = (SINGLE_FILE,) if weight_map is None else tuple(sorted(set(weight_map.values())))
    entries: list[TensorEntry] = []
    found: dict[str, str] = {}
    for shard in shards:
        try:
            with opened_tensors(followed(folder, shard), called=folder / shard) as file:
                entries += file.entries
                found |= {entry.name: shard for entry in file.entries}
        except WeightsInvalid as exc:
            raise InvalidBase(str(exc)) from exc
    if weight_map is not None:
        _check_index(found, weight_map)
    _require_unwrapped(found)
    return FoundWeights(shards=shards, weight_map=weight_map, entries=tuple(entries))


def stage_weights(folder: Path, found: FoundWeights, staging: Staging) -> StagedWeights:
    """Copy the weights that were found.

    Raises:
        InvalidBase: a copy is damaged, or no longer what was found.
    """
    for shard in found.shards:
        staging.copy(followed(folder, shard), shard, refusal=InvalidBase)
    with contextlib.ExitStack() as stack:
        try:
            files = [
                stack.enter_context(opened_tensors(staging[shard].path, called=folder / shard))
                for shard in found.shards
            ]
            digest = weights_digest(*files)
        except WeightsInvalid as exc:
            raise InvalidBase(str(exc)) from exc
    entries = tuple(entry for file in files for entry in file.entries)
    if entries != found.entries:
        raise InvalidBase(f"the weights in {folder} were changed while they were copied; register it again")
    return StagedWeights(shards=found.shards, entries=entries, digest=digest)


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


def _weight_map(folder: Path, names: frozenset[str], staging: Staging) -> Mapping[str, str]:
    if INDEX_FILE not in names:
        raise InvalidBase(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; {_way_out(names)}")
    weight_map = read_json(staging[INDEX_FILE].path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidBase(f"{INDEX_FILE}: weight_map must map tensors to files, got {shown(weight_map)}")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or shard not in names:
            raise InvalidBase(f"{INDEX_FILE} names {shown(shard)}, which is no safetensors file in {folder}")
    return weight_map


def _require_unwrapped(names: Iterable[str]) -> None:
    for name in names:
        for pattern, wrapper in _WRAPPERS:
            if wrapped := pattern.search(name):
                raise InvalidBase(
                    f"the weight {shown(name)} has {wrapped[0].strip('.')!r} in its name, as one saved from"
                    f" {wrapper}; save the model itself, with save_pretrained"
                )


def _way_out(names: frozenset[str]) -> str:
    if any(name.endswith(".gguf") for name in names):
        return "a .gguf file is given by its own path"
    pickle = next((name for name in sorted(names) if kind_of_name(name) is FileKind.PICKLE), None)
    save = "save the model with save_pretrained, which writes safetensors"
    if pickle is None:
        return save
    return f"{pickle} is a pickle, which may run any code when it is read; where you trust it, {save}"


def _check_index(found: Mapping[str, str], weight_map: Mapping[str, str]) -> None:
    wrong = sorted(
        name for name in found.keys() | weight_map.keys() if found.get(name) != weight_map.get(name)
    )
    if wrong:
        raise InvalidBase(
            f"{INDEX_FILE} does not tell where {len(wrong)} tensors are, first {shown(wrong[0])}; the"
            " download is incomplete or mixed, fetch the model again"
        )
