"""This engine's own folder: self-contained, and verified when read; `formats.saved_model` lists its files."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from formats.saved_model import EXPERT_FILES, EXPERTS_FOLDER, HEAD_FILE, MANIFEST_FILE, RELOAD_CHECK_FILE
from formats.strict_json import read_object
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import (
    ConfigInvalid,
    ExpertChanged,
    NotRepresentable,
    SavedFileUnreadable,
    SavedModelInvalid,
)
from xlora_engine.saved.expert_folders import Adapters
from xlora_engine.saved.reload_check import ReloadCheck
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.adapter_weights import read_expert, write_expert
from xlora_engine.sources.weights_file import load_weights

FORMAT = "adapter-zoo/xlora"
FORMAT_VERSION = 1
#: What the folder holds; the manifest first, by which the folder is recognised.
ENTRIES = (MANIFEST_FILE, HEAD_FILE, RELOAD_CHECK_FILE, EXPERTS_FOLDER)


def read_zoo(folder: Path, given: Adapters | None = None) -> SavedModel:
    """Read and verify the folder.

    Raises:
        SavedFileUnreadable: a file is missing or damaged, or the format is not ours.
        ExpertChanged: an expert's bytes are not those saved.
        ConfigInvalid: experts were given, which the folder holds itself.
    """
    if given is not None:
        raise ConfigInvalid("adapters", "left out: this saved model holds its experts", tuple(given))
    manifest = _read_manifest(folder / MANIFEST_FILE)
    try:
        config = XLoraConfig.from_json(manifest["config"])
        experts = {name: folder / EXPERTS_FOLDER / name for name in config.adapters}
        for name, expert_folder in experts.items():
            for file in EXPERT_FILES:
                _check_digest(expert_folder / file, manifest["experts"][name][file], ExpertChanged)
        for file in (HEAD_FILE, RELOAD_CHECK_FILE):
            _check_digest(folder / file, manifest["files"][file], SavedFileUnreadable)
        base = manifest["base"]
        return SavedModel(
            config=config,
            experts=tuple(read_expert(expert_folder, name) for name, expert_folder in experts.items()),
            layers=tuple(manifest["layers"]),
            head=load_weights(folder / HEAD_FILE),
            architecture=base["architecture"],
            reload_check=ReloadCheck(**load_weights(folder / RELOAD_CHECK_FILE), dtype=base["dtype"]),
        )
    except (KeyError, TypeError, ConfigInvalid) as error:
        raise SavedFileUnreadable(f"{folder / MANIFEST_FILE} is damaged: {error}") from error


def write_zoo(saved: SavedModel, folder: Path) -> None:
    """Write the folder's files.

    Raises:
        NotRepresentable: it was read from another format, which has no reload check.
    """
    if saved.reload_check is None or saved.layers is None:
        raise NotRepresentable(
            "zoo",
            "reload_check",
            "it takes the model on its base to make one; use from_pretrained, then save_pretrained",
        )
    check = {"token_ids": saved.reload_check.token_ids, "logits": saved.reload_check.logits}
    save_file({name: tensor.detach().cpu() for name, tensor in saved.head.items()}, folder / HEAD_FILE)
    save_file(check, folder / RELOAD_CHECK_FILE)
    experts = {}
    for expert in saved.experts:
        expert_folder = folder / EXPERTS_FOLDER / expert.name
        write_expert(expert_folder, expert, expert.updates)
        experts[expert.name] = {file: _digest(expert_folder / file) for file in EXPERT_FILES}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": saved.config.to_json(),
        "layers": list(saved.layers),
        "experts": experts,
        "base": {"architecture": saved.architecture, "dtype": saved.reload_check.dtype},
        "files": {file: _digest(folder / file) for file in (HEAD_FILE, RELOAD_CHECK_FILE)},
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _read_manifest(path: Path) -> dict[str, Any]:
    def refusal(message: str) -> SavedFileUnreadable:
        return SavedFileUnreadable(f"{message}; is it a folder of save_pretrained?")

    manifest = read_object(path, refusal=refusal)
    version = (manifest.get("format"), manifest.get("format_version"))
    if version != (FORMAT, FORMAT_VERSION):
        raise SavedFileUnreadable(
            f"{path} is of format {version}, this version reads {(FORMAT, FORMAT_VERSION)}"
        )
    return manifest


def _check_digest(path: Path, expected: str, changed: type[SavedModelInvalid]) -> None:
    if not path.is_file():
        raise SavedFileUnreadable(f"{path} is missing; copy the folder whole, or save it again")
    found = _digest(path)
    if found != expected:
        raise changed(f"{path} is not what was saved: expected {expected}, found {found}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
