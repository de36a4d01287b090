"""Checkpoints of one training run: which are whole, and which are its own.

The Trainer writes a checkpoint file by file, so one that a process died in looks like any other. A seal,
written last, names every file with its digest and the run it belongs to. Knows nothing of what is inside.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

SEAL_FILE = "seal.json"


def seal(checkpoint: Path, *, run: str) -> None:
    """Declare a checkpoint whole: what it holds now, and the run it is of."""
    staging = checkpoint / f"{SEAL_FILE}.partial"
    staging.write_text(json.dumps({"run": run, "files": _digests(checkpoint)}, indent=2), encoding="utf-8")
    staging.replace(checkpoint / SEAL_FILE)


def last_whole(folder: Path, *, run: str) -> Path | None:
    """The newest whole checkpoint of this run; all that are not whole or not its own are removed."""
    newest: Path | None = None
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of):
        if _is_whole(checkpoint, run):
            newest = checkpoint
        else:
            shutil.rmtree(checkpoint)
    return newest


def _is_whole(checkpoint: Path, run: str) -> bool:
    try:
        sealed = json.loads((checkpoint / SEAL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(sealed, dict) and sealed == {"run": run, "files": _digests(checkpoint)}


def _digests(checkpoint: Path) -> Mapping[str, str]:
    files = [path for path in checkpoint.rglob("*") if path.is_file() and not path.name.startswith(SEAL_FILE)]
    return {str(path.relative_to(checkpoint)): _digest(path) for path in sorted(files)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name tells; -1 for a name that tells none."""
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isdigit() else -1
