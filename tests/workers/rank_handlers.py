"""What stands in for training in the tests of jobs in several processes; none of it imports torch."""

import contextlib
import json
import os
import select
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.attempts.context import JobContext


def share(context: JobContext) -> Mapping[str, Any]:
    """Measure and report in every process, and tell its place in the group as torch's libraries see it."""
    rank = context.place.rank
    context.report("training", rank, 1)
    context.run.metrics({"train/loss": float(rank)})
    context.run.artifact(context.folder / "log.txt", folder=str(rank))
    environ = {name: os.environ.get(name) for name in ("LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")}
    held = sorted(
        path.name for path in map(_target, Path("/proc/self/fd").iterdir()) if path.suffix == ".lock"
    )
    (context.folder / f"seen-{rank}.json").write_text(json.dumps({**environ, "held": held}))
    (context.folder / f"said-{rank}").touch()
    # The first ends the others with it; a real group has met for a last step by then.
    while not all((context.folder / f"said-{other}").exists() for other in range(context.place.processes)):
        signal.sigtimedwait([], 0.01)
    return {"rank": rank, "processes": context.place.processes}


def _target(descriptor: Path) -> Path:
    try:
        return descriptor.readlink()
    except OSError:  # the one that listed the folder
        return descriptor


def wait_together(context: JobContext) -> Mapping[str, Any]:
    """Say its process id, then wait: the first process to be asked to end, the others for what it decides.

    A later attempt goes on from what the first process saved, or from nothing.
    """
    if context.fence > 1:
        return {"goes_on_from": [path.read_text() for path in context.folder.glob("checkpoint")]}
    stopped = context.folder / "checkpoint"
    (context.folder / f"pid-{context.place.rank}").write_text(str(os.getpid()))
    while not (context.stop_requested() if context.place.is_first else stopped.exists()):
        signal.sigtimedwait([], 0.02)
    if context.place.is_first:
        stopped.write_text(f"saved by {context.place.rank}")
    if not context.stop_requested():
        os.kill(os.getpid(), signal.SIGTERM)  # stands for the agreement of a real group
    context.raise_if_stopped()
    return {}


def need_less_memory_in_one(context: JobContext) -> Mapping[str, Any]:
    """Find no room in the second process, while the others wait for it for good."""
    rows = context.micro_batch(8)
    if rows <= 4:
        return {"rows": rows}
    if context.place.rank == 1:
        raise MemoryError
    threading.Event().wait()
    return {}


def die_and_be_missed(context: JobContext) -> Mapping[str, Any]:
    """End the second process without a word, which the first notices by a broken connection, and says so."""
    reader, writer = context.folder / "reader", context.folder / "writer"
    if context.place.rank == 1:
        writer.write_text(str(os.getpid()))
        while not reader.exists():
            signal.sigtimedwait([], 0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    while not writer.exists():
        signal.sigtimedwait([], 0.01)
    reader.touch()
    raise RuntimeError("connection closed by peer")


def fail_in_one(context: JobContext) -> Mapping[str, Any]:
    """Fail in the second process; the first would complain of that one's end, if it ended first."""
    said = context.folder / "pid-1"
    if context.place.rank == 1:
        said.write_text(str(os.getpid()))
        raise ZeroDivisionError("division by zero in rank 1")
    while not (said.exists() and said.read_text()):
        signal.sigtimedwait([], 0.01)
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(int(said.read_text()))], [], [])
    (context.folder / "noticed").touch()
    raise RuntimeError("connection closed by peer")
