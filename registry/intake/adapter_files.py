"""An adapter's files, copied and looked at without trusting them: what is in them, and all that is wrong.

Nothing is loaded: configuration and tensors are read by parsers of our own, a pickle by none.
"""

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formats.peft import CONFIG_FILE, WEIGHTS_FILE
from registry.errors import InvalidAdapter, WeightsInvalid
from registry.files.model_card import licence_in
from registry.files.safetensors_file import TensorEntry, opened_tensors
from registry.files.staging import Staging
from registry.intake.adapter_config import AdapterConfig, parse_config, rebuild_config, stage_config
from registry.intake.adapter_tensors import AdapterValues, ModuleShape, dtype_name, pair_modules, read_values
from registry.intake.folders.adapter_names import WEIGHTS
from registry.intake.folders.beside import is_read, stage_texts, tokenizer_beside, training_of
from registry.intake.folders.left_out import left_out_note
from registry.intake.folders.pickles import pickle_refusal, refuse_other_content, refuse_stand_in
from registry.intake.folders.places import AdapterPlace, find_adapter
from registry.intake.folders.problems import Problems
from registry.intake.folders.shards import stage_shards
from registry.intake.makers.table import ModulePaths, convert_foreign
from registry.intake.tokenizer_files import TokenizerFiles


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
    #: Names of the files that it was joined from, if it was in parts.
    parts: tuple[str, ...]


def stage_adapter(
    folder: Path,
    staging: Staging,
    *,
    subfolder: str | None = None,
    checkpoint: str | None = None,
    module_paths: ModulePaths = tuple,
) -> AdapterManifest:
    """Copy the files of the LoRA adapter in `folder` that are kept, and look at the copies.

    The configuration among them is the one written anew, and another program's adapter is converted.
    `subfolder` and `checkpoint`: see `find_adapter`; `module_paths`: of the base models that it may be of.

    Raises:
        InvalidAdapter: there is none, or what must not be loaded; the message names every file, field or
            tensor that is wrong. Subclasses tell a bad configuration, bad weights, a pickle, another kind of
            adapter, and one that changes nothing from each other.
    """
    place = find_adapter(folder, subfolder=subfolder, checkpoint=checkpoint)
    conversion = convert_foreign(place, staging, module_paths=module_paths)
    problems = Problems()
    config = problems.attempt(lambda: parse_config(_config(place, staging)))
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
        warnings=conversion
        + _warnings(place, {*files, *weights.parts, *refused_texts, place.weights}, refused_texts, weights),
    )


def _config(place: AdapterPlace, staging: Staging) -> bytes:
    if CONFIG_FILE not in staging:
        stage_config(_path_of(CONFIG_FILE, place), staging)
    data = staging[CONFIG_FILE].read()
    refuse_stand_in(data, called=place.folder / CONFIG_FILE)
    return data


def _read_weights(
    place: AdapterPlace, staging: Staging, config: AdapterConfig | None, problems: Problems
) -> _Weights | None:
    """The weights, whose faults are noted; paired if there is a configuration."""
    called = place.folder / WEIGHTS_FILE
    parts = () if WEIGHTS_FILE in staging else stage_shards(place, staging)
    if WEIGHTS_FILE not in staging:
        staging.copy(_path_of(WEIGHTS_FILE, place), WEIGHTS_FILE, refusal=WeightsInvalid)
    copy = staging[WEIGHTS_FILE]
    refuse_other_content(copy.path, called=called)
    with opened_tensors(copy.path, called=called) as weights:
        modules = None if config is None else problems.attempt(lambda: pair_modules(weights.entries, config))
        values = problems.attempt(lambda: read_values(weights))
        entries = weights.entries
    if modules is None or values is None:
        return None
    return _Weights(entries=entries, modules=modules, values=values, size_bytes=copy.size_bytes, parts=parts)


def _path_of(name: str, place: AdapterPlace) -> Path:
    if name in place.files:
        return place.files[name]
    if name in place.listing.unusable:
        raise InvalidAdapter(
            f"{place.folder / name} is {place.listing.unusable[name]}; copy the folder with its links"
            f" resolved (cp -rL {shlex.quote(str(place.folder))} copy) and give the copy"
        )
    if name == WEIGHTS_FILE and place.weights is not None and WEIGHTS.get(place.weights):
        raise pickle_refusal(place.folder / place.weights)
    raise InvalidAdapter(f"{place.folder} has no {name}; give the folder that PEFT's save_pretrained wrote")


def _warnings(
    place: AdapterPlace,
    named: Collection[str | None],
    refused_texts: Mapping[str, str],
    weights: _Weights,
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
