"""Manifests of training checkpoints: which are complete, and which belong to a run.

The Trainer writes a checkpoint file by file, so an incomplete one looks like any other. A manifest, written
last, lists every file with its digest and the run it belongs to. Independent of what the files hold.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

_log = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"

#: Receives a sentence about a checkpoint that is not taken up, with the reason.
OnDiscarded = Callable[[str], None]


def write_manifest(checkpoint: Path, *, run: str) -> None:
    """Declare a checkpoint complete: list its files, and the run it belongs to."""
    staging = checkpoint / f"{MANIFEST_FILE}.partial"
    staging.write_text(json.dumps({"run": run, "files": _digests(checkpoint)}, indent=2), encoding="utf-8")
    staging.replace(checkpoint / MANIFEST_FILE)


def last_complete(folder: Path, *, run: str, on_discarded: OnDiscarded = _log.warning) -> Path | None:
    """The newest complete checkpoint of this run; incomplete ones and those of other runs are removed.

    `run` is what the result depends on, as words like `examples=…`, by which a reason names what differs.
    """
    newest: Path | None = None
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=step_of):
        reason = _reason_against(checkpoint, run)
        if reason is None:
            newest = checkpoint
        else:
            shutil.rmtree(checkpoint)
            on_discarded(f"{checkpoint.name} is not taken up: {reason}")
    return newest


def _reason_against(checkpoint: Path, run: str) -> str | None:
    """Why training cannot go on from it; None if it can."""
    try:
        manifest = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "it was not written to its end"
    if not isinstance(manifest, dict) or manifest.get("files") != _digests(checkpoint):
        return "its files are not those that were written"
    written = str(manifest.get("run"))
    return None if written == run else f"it is of another run ({_difference(written, run)})"


def _difference(written: str, run: str) -> str:
    before, now = (dict(word.partition("=")[::2] for word in text.split()) for text in (written, run))
    if set(before) != set(now):
        return "described in another way"
    return f"other {', '.join(name for name in now if now[name] != before[name])}"


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
