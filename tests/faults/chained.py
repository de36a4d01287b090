"""A job whose result reveals any step that was skipped, repeated or reordered: a chain of digests.

Its effect is real: an adapter, registered under the job's fence. Every step appends a mark, to count them.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.registry.folders import write_adapter
from workers.attempts.context import JobContext
from workers.processes.replaced_file import replaced_file

STEPS = 30
_STEP_S = 0.03
_CHECKPOINT_EVERY = 2
BASE = "pico"
MARKS = "marks"


def run_chain(context: JobContext) -> Mapping[str, Any]:
    """Resume from the last complete checkpoint; end with an adapter made from the last digest."""
    name = str(context.job.spec["name"])
    checkpoint = context.folder / "checkpoint.json"
    step, digest = _last_complete(checkpoint, name)
    while step < STEPS:
        context.raise_if_stopped()
        time.sleep(_STEP_S)
        step, digest = step + 1, next_digest(digest, step + 1)
        _mark(context.registry.settings.home)
        context.report("chaining", step, STEPS)
        if step % _CHECKPOINT_EVERY == 0:
            _save(checkpoint, step, digest)
    folder = context.folder / f"adapter-{context.fence}"
    write_adapter(folder, seed=seed_of(digest))
    adapter = context.registry.adapters.register(
        folder, name=name, base=BASE, job_id=context.job.id, fence=context.fence, effect_score=1.0
    )
    return {"adapter": adapter.reference, "digest": digest}


def next_digest(digest: str, step: int) -> str:
    """The digest after one more step."""
    return hashlib.sha256(f"{digest} {step}".encode()).hexdigest()


def undisturbed(name: str) -> str:
    """The last digest of the chain of that name, when nothing interrupts it."""
    digest = name
    for step in range(1, STEPS + 1):
        digest = next_digest(digest, step)
    return digest


def seed_of(digest: str) -> int:
    """The seed of the adapter that is made from a digest."""
    return int(digest[:8], 16)


def steps_run(home: Path) -> int:
    """How many steps all jobs ran together, including those that were lost."""
    return (home / MARKS).stat().st_size if (home / MARKS).exists() else 0


def _mark(home: Path) -> None:
    descriptor = os.open(home / MARKS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, b".")
    os.close(descriptor)


def _save(checkpoint: Path, step: int, digest: str) -> None:
    content = {"step": step, "digest": digest}
    complete = {**content, "checksum": hashlib.sha256(json.dumps(content).encode()).hexdigest()}
    with replaced_file(checkpoint) as staged:
        staged.write_text(json.dumps(complete))


def _last_complete(checkpoint: Path, name: str) -> tuple[int, str]:
    try:
        content = json.loads(checkpoint.read_text())
    except (OSError, ValueError):
        return 0, name
    checksum = content.pop("checksum", "")
    if checksum != hashlib.sha256(json.dumps(content).encode()).hexdigest():
        return 0, name
    return content["step"], content["digest"]
