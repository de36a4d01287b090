"""Manifests of training checkpoints: which are complete, and which belong to a run.

The Trainer writes a checkpoint file by file, so an incomplete one looks like any other. A manifest, written
last, lists every file with its digest and the run it belongs to. Independent of what the files hold.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

MANIFEST_FILE = "manifest.json"


def write_manifest(checkpoint: Path, *, run: str) -> None:
    """Declare a checkpoint complete: list its files, and the run it belongs to."""
    staging = checkpoint / f"{MANIFEST_FILE}.partial"
    staging.write_text(json.dumps({"run": run, "files": _digests(checkpoint)}, indent=2), encoding="utf-8")
    staging.replace(checkpoint / MANIFEST_FILE)


def last_complete(folder: Path, *, run: str) -> Path | None:
    """The newest complete checkpoint of this run; incomplete ones and those of other runs are removed."""
    newest: Path | None = None
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of):
        if _is_complete(checkpoint, run):
            newest = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return newest


def _is_complete(checkpoint: Path, run: str) -> bool:
    try:
        manifest = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest == {"run": run, "files": _digests(checkpoint)}


def _digests(checkpoint: Path) -> Mapping[str, str]:
    files = [
        path for path in checkpoint.rglob("*") if path.is_file() and not path.name.startswith(MANIFEST_FILE)
    ]
    return {str(path.relative_to(checkpoint)): _digest(path) for path in sorted(files)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name; -1 if there is none."""
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isdigit() else -1
