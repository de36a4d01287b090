"""An adapter's staged files, written anew for one base model: names of its modules, and nothing of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from formats.base_modules import BaseModule
from formats.module_names import Placement, placement
from formats.peft import CONFIG_FILE, WEIGHTS_FILE, Factor, base_copy_of, factor_of
from registry.entities import FileRecord
from registry.files.rewritten_tensors import rewritten
from registry.files.safetensors_file import SafetensorsFile, opened_tensors
from registry.files.staging import Staging
from registry.intake.adapter_config import rebuild_config
from registry.intake.adapter_files import AdapterManifest
from registry.intake.adapter_tensors import dtype_name, read_values
from registry.intake.fitting.base_copies import OpenStored, require_copy
from registry.intake.fitting.misfits import listed


def place(
    manifest: AdapterManifest,
    staging: Staging,
    *,
    loaded: Mapping[str, BaseModule],
    base_files: Sequence[FileRecord],
    opened: OpenStored,
) -> AdapterManifest:
    """The manifest of the staged files after they were made those of this base model.

    Names become those of the `loaded` modules, expressions the values that they give, copies of the base
    model's weights are compared and dropped. Files that need nothing of it stay bit for bit as they were.

    Raises:
        WeightsInvalid: a weight of the base model beside the updates is not this one's.
    """
    placed = placement(manifest.modules, loaded)
    config = manifest.config.resolved(placed.names)
    if _is_placed(manifest, placed):
        return replace(manifest, config=config)
    path = staging[WEIGHTS_FILE].path
    with opened_tensors(path, called=Path(WEIGHTS_FILE)) as file:
        keys = _keys(file, placed.names)
        copies = [(entry, name) for entry in file.entries if (name := base_copy_of(entry.name)) is not None]
        for entry, name in copies:
            require_copy(file, entry, name, base_files, opened)
        data = rewritten(file, keys)
    weights = staging.write(WEIGHTS_FILE, data)
    staging.write(CONFIG_FILE, rebuild_config(config, modules=placed.names.values()))
    with opened_tensors(weights.path, called=Path(WEIGHTS_FILE)) as file:
        values, entries = read_values(file), file.entries
    return replace(
        manifest,
        config=config,
        modules={name: manifest.modules[path] for path, name in placed.names.items()},
        dtype=dtype_name(entries),
        parameter_count=sum(entry.size for entry in entries),
        size_bytes=weights.size_bytes,
        weights_digest=values.digest,
        warnings=(*manifest.warnings, *_notes(keys, [name for _, name in copies])),
    )


def _is_placed(manifest: AdapterManifest, placed: Placement) -> bool:
    """Whether the weights file is as it is to be stored: every key as PEFT writes it, and nothing beside."""
    updates = manifest.modules.values()
    return manifest.parameter_count == sum(update.parameter_count for update in updates) and all(
        update.keys == _stored_keys(placed.names.get(path), update.is_embedding)
        for path, update in manifest.modules.items()
    )


def _stored_keys(name: str | None, is_embedding: bool) -> tuple[str, ...]:
    if name is None:
        return ()
    return tuple(Factor(module=name, half=half, is_embedding=is_embedding).key for half in "AB")


def _keys(file: SafetensorsFile, names: Mapping[str, str]) -> dict[str, str]:
    """Key in the file -> key of the same tensor for the base model; of those that stay."""
    keys = {}
    for entry in file.entries:
        factor = None if base_copy_of(entry.name) is not None else factor_of(entry.name)
        if factor is not None and factor.module in names:
            moved = Factor(module=names[factor.module], half=factor.half, is_embedding=factor.is_embedding)
            keys[entry.name] = moved.key
    return keys


def _notes(keys: Mapping[str, str], copies: Sequence[str]) -> list[str]:
    renamed = [(old, new) for old, new in keys.items() if old != new]
    notes = []
    if renamed:
        old, new = renamed[0]
        notes.append(f"{len(renamed)} of {len(keys)} keys are stored under other names: {old} as {new}")
    if copies:
        notes.append(f"left out, because they are the base model's own weights: {listed(sorted(copies))}")
    return notes
