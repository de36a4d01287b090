"""An adapter's files, copied and looked at without trusting them: what is in them, and all that is wrong.

Nothing is loaded: configuration and tensors are read by parsers of our own, a pickle by none.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formats.peft import CONFIG_FILE, WEIGHTS_FILE
from registry.errors import AdapterConfigInvalid, InvalidAdapter, PickleRefused, WeightsInvalid
from registry.files.model_card import licence_in
from registry.files.safetensors_file import TensorEntry, opened_tensors
from registry.files.staging import Staging
from registry.files.stand_ins import START_BYTES, stand_in
from registry.intake.adapter_config import CONFIG_LIMIT_BYTES, AdapterConfig, parse_config, rebuild_config
from registry.intake.adapter_tensors import AdapterValues, ModuleShape, dtype_name, pair_modules, read_values
from registry.intake.folders.adapter_names import WEIGHTS, weights_name
from registry.intake.folders.beside import is_read, stage_texts, tokenizer_beside, training_of
from registry.intake.folders.left_out import left_out_note
from registry.intake.folders.places import AdapterPlace, find_adapter
from registry.intake.folders.problems import Problems
from registry.intake.tokenizer_files import TokenizerFiles

#: Beginnings of what `torch.save` writes: a zip, or a bare pickle of protocol 2 to 5.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, kw_only=True)
class AdapterManifest:
    """What an adapter folder holds, derived from its files."""

    config: AdapterConfig
    #: Module path -> its update, resolved from the tensors.
    modules: Mapping[str, ModuleShape]
    #: "float32", "bfloat16", …; several joined by a comma.
    dtype: str
    parameter_count: int
    #: Of the weights file.
    size_bytes: int
    weights_digest: str
    #: Names of the files to keep.
    files: tuple[str, ...]
    licence: str | None
    #: Of the tokenizer beside it, which is compared with the base model's and not kept.
    tokenizer: TokenizerFiles = field(default_factory=TokenizerFiles)
    #: What a Trainer's state beside it says of the training: steps, losses, the best checkpoint.
    training: Mapping[str, Any] = field(default_factory=dict)
    #: `hub:<repository>@<revision>` or `file:<path>`.
    origin: str = ""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """The weights file of an adapter, read once."""

    entries: tuple[TensorEntry, ...]
    modules: Mapping[str, ModuleShape]
    values: AdapterValues
    size_bytes: int


def stage_adapter(
    folder: Path, staging: Staging, *, subfolder: str | None = None, checkpoint: str | None = None
) -> AdapterManifest:
    """Copy the files of the LoRA adapter in `folder` that are kept, and look at the copies.

    The configuration among them is the one written anew. `subfolder` and `checkpoint`: see `find_adapter`.

    Raises:
        InvalidAdapter: there is none, or what must not be loaded; the message names every file, field or
            tensor that is wrong. Subclasses tell a bad configuration, bad weights, a pickle, another kind of
            adapter, and one that changes nothing from each other.
    """
    place = find_adapter(folder, subfolder=subfolder, checkpoint=checkpoint)
    problems = Problems()
    config = problems.attempt(lambda: parse_config(_copied_config(place, staging)))
    weights = problems.attempt(lambda: _read_weights(place, staging, config, problems))
    if config is None or weights is None or problems:
        raise problems.error(place.folder)
    staging.write(CONFIG_FILE, rebuild_config(config, modules=weights.modules))
    texts, refused_texts = stage_texts(place, staging)
    files = tuple(sorted((CONFIG_FILE, WEIGHTS_FILE, *texts)))
    return AdapterManifest(
        config=config,
        modules=weights.modules,
        dtype=dtype_name(weights.entries),
        parameter_count=sum(entry.size for entry in weights.entries),
        size_bytes=weights.size_bytes,
        weights_digest=weights.values.digest,
        files=files,
        licence=licence_in(staging),
        tokenizer=tokenizer_beside(place),
        training=training_of(place),
        origin=place.origin,
        warnings=_warnings(place, {*files, *refused_texts}, refused_texts, weights),
    )


def _copied_config(place: AdapterPlace, staging: Staging) -> bytes:
    path = _path_of(CONFIG_FILE, place)
    copy = staging.copy(path, CONFIG_FILE, refusal=AdapterConfigInvalid, limit_bytes=CONFIG_LIMIT_BYTES)
    data = copy.read()
    _refuse_stand_in(data[:START_BYTES], called=place.folder / CONFIG_FILE)
    return data


def _read_weights(
    place: AdapterPlace, staging: Staging, config: AdapterConfig | None, problems: Problems
) -> _Weights | None:
    """The weights, whose faults are noted; paired if there is a configuration."""
    called = place.folder / WEIGHTS_FILE
    copy = staging.copy(_path_of(WEIGHTS_FILE, place), WEIGHTS_FILE, refusal=WeightsInvalid)
    with copy.path.open("rb") as file:
        start = file.read(START_BYTES)
    _refuse_stand_in(start, called=called)
    _refuse_disguised_pickle(start, called=called)
    with opened_tensors(copy.path, called=called) as weights:
        modules = None if config is None else problems.attempt(lambda: pair_modules(weights.entries, config))
        values = problems.attempt(lambda: read_values(weights))
        entries = weights.entries
    if modules is None or values is None:
        return None
    return _Weights(entries=entries, modules=modules, values=values, size_bytes=copy.size_bytes)


def _path_of(name: str, place: AdapterPlace) -> Path:
    if name in place.files:
        return place.files[name]
    if name in place.listing.unusable:
        raise InvalidAdapter(
            f"{place.folder / name} is {place.listing.unusable[name]}; copy the folder with its links"
            f" resolved (cp -rL {shlex.quote(str(place.folder))} copy) and give the copy"
        )
    pickled = weights_name(place.files) if name == WEIGHTS_FILE else None
    if pickled is not None and WEIGHTS[pickled]:
        raise PickleRefused(
            f"{place.folder / pickled} is a pickle or may hold one, and loading a pickle can run code."
            f" {_conversion(place.folder)}"
        )
    raise InvalidAdapter(f"{place.folder} has no {name}; give the folder that PEFT's save_pretrained wrote")


def _conversion(folder: Path) -> str:
    quoted = shlex.quote(str(folder))
    return (
        f"Convert it: zoo convert {quoted} NEW-FOLDER, which reads its tensors and nothing else, in a process"
        " without network; then register the new folder"
    )


def _refuse_stand_in(start: bytes, *, called: Path) -> None:
    instead = stand_in(start, called=called)
    if instead is not None:
        raise InvalidAdapter(instead)


def _refuse_disguised_pickle(start: bytes, *, called: Path) -> None:
    # A safetensors file has a small number and a brace here.
    if start.startswith(_PICKLE_STARTS) and start[8:9] != b"{":
        raise PickleRefused(
            f"{called} is a pickle under another name, and loading a pickle can run code."
            f" {_conversion(called.parent)}"
        )


def _warnings(
    place: AdapterPlace, named: set[str], refused_texts: Mapping[str, str], weights: _Weights
) -> tuple[str, ...]:
    unusable = {name: what for name, what in place.listing.unusable.items() if name not in named}
    left_out = left_out_note(
        [name for name in place.files if name not in named and not is_read(name)],
        place.listing.folders,
        unusable={**unusable, **refused_texts},
        adapters=place.others,
    )
    zero = weights.values.zero_modules
    untrained = f"the update is zero in {zero} of {len(weights.modules)} modules" if zero else None
    return tuple(filter(None, (left_out, untrained)))
