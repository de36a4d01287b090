"""An adapter in any form that the zoo reads, pickles included, to a new folder of PEFT's two files."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.peft import CONFIG_FILE, WEIGHTS_FILE
from registry.errors import InvalidAdapter, PickleRefused, WeightsInvalid
from registry.files.regular_files import open_regular
from registry.files.staging import Staging
from registry.intake.adapter_files import AdapterManifest, stage_adapter
from registry.intake.folders.adapter_names import (
    ADAPTERHUB_PICKLE_FILE,
    ADAPTERHUB_WEIGHTS_FILE,
    MLX_ARRAYS_FILE,
    MLX_WEIGHTS_FILE,
)
from registry.intake.folders.places import AdapterPlace, find_adapter
from registry.intake.makers.table import ModulePaths
from workers.errors import NotIsolated
from workers.processes.child_environment import child_command, child_environment
from xlora_engine.sources.new_folder import filling

_TIMEOUT_S = 900.0
#: A pickle's name -> that of the safetensors file with the same tensors.
_SAFE_NAMES = {ADAPTERHUB_PICKLE_FILE: ADAPTERHUB_WEIGHTS_FILE, MLX_ARRAYS_FILE: MLX_WEIGHTS_FILE}


@dataclass(frozen=True, kw_only=True)
class ConvertedAdapter:
    """What a new folder holds, and how it was made."""

    manifest: AdapterManifest
    #: What the process that read a pickle was isolated by; empty if nothing had to be unpickled.
    isolated: tuple[str, ...] = ()


def convert_adapter(
    given: Path,
    target: Path,
    *,
    subfolder: str | None = None,
    checkpoint: str | None = None,
    module_paths: ModulePaths = tuple,
) -> ConvertedAdapter:
    """Write the adapter in `given` to the new folder `target`, in PEFT's form.

    Raises:
        InvalidAdapter: as `stage_adapter`, but for pickles, which are read by a process of their own.
        WeightsInvalid: the pickle holds something else than tensors by name, or asks for too much.
        NotIsolated: the system allows no process without network.
    """
    with filling(target) as folder, tempfile.TemporaryDirectory() as scratch:
        copies = Path(scratch) / "copies"
        copies.mkdir()
        isolated: tuple[str, ...] = ()
        try:
            manifest = stage_adapter(
                given,
                Staging(copies),
                subfolder=subfolder,
                checkpoint=checkpoint,
                module_paths=module_paths,
            )
        except PickleRefused:
            place = find_adapter(given, subfolder=subfolder, checkpoint=checkpoint)
            safe = Path(scratch) / place.folder.resolve().name
            isolated = _unpickled(place, safe)
            shutil.rmtree(copies)
            copies.mkdir()
            manifest = _staged_again(safe, place, copies, module_paths)
        for name in manifest.files:
            shutil.copyfile(copies / name, folder / name)
    return ConvertedAdapter(manifest=manifest, isolated=isolated)


def _staged_again(
    safe: Path, place: AdapterPlace, copies: Path, module_paths: ModulePaths
) -> AdapterManifest:
    try:
        return stage_adapter(safe, Staging(copies), module_paths=module_paths)
    except InvalidAdapter as refusal:
        # The user knows the folder that was given, not the one that its tensors were written to.
        raise type(refusal)(str(refusal).replace(str(safe), str(place.folder))) from refusal


def _unpickled(place: AdapterPlace, safe: Path) -> tuple[str, ...]:
    """Fill the folder `safe` as `place`, its weights as safetensors; what isolated the process for that."""
    safe.mkdir()
    name = place.weights or WEIGHTS_FILE
    for other in (CONFIG_FILE, "README.md", "LICENSE"):
        path = place.files.get(other)
        if path is not None:
            shutil.copyfile(path, safe / other)
    outcome = _read_in_child(place.files[name], safe / _SAFE_NAMES.get(name, WEIGHTS_FILE))
    if outcome.get("not_isolated"):
        raise NotIsolated(
            "this system allows no process without network (neither namespaces nor seccomp), so no pickle is"
            " read here; convert it on another Linux machine"
        )
    if "isolated" not in outcome:
        raise WeightsInvalid(
            f"{place.folder / name} cannot be converted: {outcome.get('refused', 'its reader was ended')};"
            " only tensors by name are read, nothing that runs code. If it is your own, load it where it was"
            " made and save it with safetensors"
        )
    return tuple(outcome["isolated"])


def _read_in_child(pickled: Path, target: Path) -> Mapping[str, Any]:
    environment = child_environment(os.environ)
    with open_regular(pickled, refusal=WeightsInvalid) as file:
        try:
            ended = subprocess.run(
                child_command("workers.conversion.unpickling", str(target)),
                stdin=file,
                capture_output=True,
                env=environment,
                cwd=target.parent,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"refused": f"it was not read within {_TIMEOUT_S:.0f} s"}
    try:
        outcome = json.loads(ended.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {
            "refused": f"its reader ended with {ended.returncode}, as it does at a limit of memory or time"
        }
    return outcome if isinstance(outcome, dict) else {}
