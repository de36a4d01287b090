"""A saved X-LoRA model: one self-contained folder, written whole or not at all, verified when read."""

import hashlib
import json
import secrets
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from formats.saved_model import EXPERT_FILES, EXPERTS_FOLDER, HEAD_FILE, MANIFEST_FILE, PROBE_FILE, TOP_FILES
from formats.strict_json import read_object
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import CheckpointInvalid, CheckpointUnreadable, ConfigInvalid, ExpertChanged
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.saved.saved_model import Probe, SavedModel, ask_probe
from xlora_engine.sources.adapter_weights import read_expert, write_expert
from xlora_engine.sources.weights_file import load_weights

FORMAT = "adapter-zoo/xlora"
FORMAT_VERSION = 1
_ENTRIES = (*TOP_FILES, EXPERTS_FOLDER)


def save_checkpoint(model: Mixture, folder: Path) -> None:
    """Write the folder beside its place, then rename it; what else lay in an existing folder stays there.

    Raises:
        CheckpointInvalid: the folder is no checkpoint, yet holds files of a checkpoint's names.
    """
    folder = folder.resolve()
    _require_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    staging.mkdir()
    try:
        _write(model, staging)
        _put_in_place(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def load_checkpoint(folder: Path) -> SavedModel:
    """Read and verify a checkpoint folder.

    Raises:
        CheckpointUnreadable: a file is missing or damaged, or the format is not ours.
        ExpertChanged: an expert's bytes are not those saved.
    """
    manifest = _read_manifest(folder / MANIFEST_FILE)
    try:
        config = XLoraConfig.from_json(manifest["config"])
        experts = {name: folder / EXPERTS_FOLDER / name for name in config.adapters}
        for name, expert_folder in experts.items():
            for file in EXPERT_FILES:
                _check_digest(expert_folder / file, manifest["experts"][name][file], ExpertChanged)
        for file in (HEAD_FILE, PROBE_FILE):
            _check_digest(folder / file, manifest["files"][file], CheckpointUnreadable)
        return SavedModel(
            config=config,
            experts=tuple(read_expert(expert_folder, name) for name, expert_folder in experts.items()),
            layers=tuple(manifest["layers"]),
            head=load_weights(folder / HEAD_FILE),
            probe=Probe(tensors=load_weights(folder / PROBE_FILE), dtype=manifest["base"]["dtype"]),
        )
    except (KeyError, TypeError, ConfigInvalid) as error:
        raise CheckpointUnreadable(f"{folder / MANIFEST_FILE} is damaged: {error}") from error


def _require_replaceable(folder: Path) -> None:
    taken = [name for name in _ENTRIES if (folder / name).exists()]
    if taken and not (folder / MANIFEST_FILE).is_file():
        raise CheckpointInvalid(
            f"{folder} is no saved composition, yet it holds {', '.join(taken)}; save to another folder"
        )


def _put_in_place(staging: Path, folder: Path) -> None:
    """At every moment the old folder or the new one is there whole, if only under its hidden name."""
    aside = staging.with_name(f"{staging.name}.old")
    if folder.exists():
        folder.rename(aside)
    try:
        staging.rename(folder)
    except BaseException:
        if aside.exists():
            aside.rename(folder)
        raise
    if aside.exists():
        for entry in aside.iterdir():
            if entry.name not in _ENTRIES:
                entry.rename(folder / entry.name)
        shutil.rmtree(aside)


def _write(model: Mixture, folder: Path) -> None:
    save_file({name: t.detach().cpu() for name, t in model.head.state_dict().items()}, folder / HEAD_FILE)
    save_file(ask_probe(model), folder / PROBE_FILE)
    experts = {}
    for expert in model.experts:
        expert_folder = folder / EXPERTS_FOLDER / expert.name
        write_expert(expert_folder, expert, model.updates_of(expert))
        experts[expert.name] = {file: _digest(expert_folder / file) for file in EXPERT_FILES}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": model.config.to_json(),
        "layers": list(model.layers),
        "experts": experts,
        "base": {"architecture": type(model.base).__name__, "dtype": str(model.dtype)},
        "files": {file: _digest(folder / file) for file in (HEAD_FILE, PROBE_FILE)},
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _read_manifest(path: Path) -> dict[str, Any]:
    def refusal(message: str) -> CheckpointUnreadable:
        return CheckpointUnreadable(f"{message}; is it a folder of save_pretrained?")

    manifest = read_object(path, refusal=refusal)
    version = (manifest.get("format"), manifest.get("format_version"))
    if version != (FORMAT, FORMAT_VERSION):
        raise CheckpointUnreadable(
            f"{path} is of format {version}, this version reads {(FORMAT, FORMAT_VERSION)}"
        )
    return manifest


def _check_digest(path: Path, expected: str, changed: type[CheckpointInvalid]) -> None:
    if not path.is_file():
        raise CheckpointUnreadable(f"{path} is missing; copy the folder whole, or save it again")
    found = _digest(path)
    if found != expected:
        raise changed(f"{path} is not what was saved: expected {expected}, found {found}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
