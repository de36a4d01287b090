"""What stands in for training in the tests of jobs in several processes; none of it imports torch."""

import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

from workers.context import JobContext


def share(context: JobContext) -> Mapping[str, Any]:
    """Measure and report in every process, and tell its place in the group as torch's libraries see it."""
    rank = context.place.rank
    context.report("training", rank, 1)
    context.run.metrics({"train/loss": float(rank)})
    context.run.artifact(context.folder / "log.txt", folder=str(rank))
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    (context.folder / f"environ-{rank}").write_text(str({name: os.environ.get(name) for name in names}))
    return {"rank": rank, "processes": context.place.processes}


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
    """Fail in the second process; the first would complain of that one's end, if it ended."""
    if context.place.rank == 1:
        raise ZeroDivisionError("division by zero in rank 1")
    threading.Event().wait()
    return {}
