"""Handlers that replace training in the tests of jobs in several processes; none imports torch."""

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
    """Measure and report in every process, and write its index and environment as torch sees them."""
    index = context.member.index
    context.report("training", index, 1)
    context.run.metrics({"train/loss": float(index)})
    context.run.artifact(context.folder / "log.txt", folder=str(index))
    environ = {name: os.environ.get(name) for name in ("LOCAL_RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")}
    held = sorted(
        path.name for path in map(_target, Path("/proc/self/fd").iterdir()) if path.suffix == ".lock"
    )
    (context.folder / f"seen-{index}.json").write_text(json.dumps({**environ, "held": held}))
    (context.folder / f"said-{index}").touch()
    # The first ends the others with it; a real group has finished its last step together by then.
    while not all((context.folder / f"said-{other}").exists() for other in range(context.member.processes)):
        signal.sigtimedwait([], 0.01)
    return {"index": index, "processes": context.member.processes}


def _target(descriptor: Path) -> Path:
    try:
        return descriptor.readlink()
    except OSError:  # the one that listed the folder
        return descriptor


def wait_together(context: JobContext) -> Mapping[str, Any]:
    """Write the process id, then wait: the first process until it is asked to stop, the others for the first.

    A later attempt resumes from what the first process saved, or starts over.
    """
    if context.fence > 1:
        return {"goes_on_from": [path.read_text() for path in context.folder.glob("checkpoint")]}
    stopped = context.folder / "checkpoint"
    (context.folder / f"pid-{context.member.index}").write_text(str(os.getpid()))
    while not (context.stop_requested() if context.member.is_first else stopped.exists()):
        signal.sigtimedwait([], 0.02)
    if context.member.is_first:
        stopped.write_text(f"saved by {context.member.index}")
    if not context.stop_requested():
        os.kill(os.getpid(), signal.SIGTERM)  # replaces the agreement of a real group
    context.raise_if_stopped()
    return {}


def need_less_memory_in_one(context: JobContext) -> Mapping[str, Any]:
    """Run out of memory in the second process, while the others wait for it forever."""
    size = context.micro_batch(8)
    if size <= 4:
        return {"size": size}
    if context.member.index == 1:
        raise MemoryError
    threading.Event().wait()
    return {}


def die_and_be_missed(context: JobContext) -> Mapping[str, Any]:
    """Kill the second process; the first notices the broken connection and raises."""
    reader, writer = context.folder / "reader", context.folder / "writer"
    if context.member.index == 1:
        writer.write_text(str(os.getpid()))
        while not reader.exists():
            signal.sigtimedwait([], 0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    while not writer.exists():
        signal.sigtimedwait([], 0.01)
    reader.touch()
    raise RuntimeError("connection closed by peer")


def fail_in_one(context: JobContext) -> Mapping[str, Any]:
    """Fail in the second process; the first raises a later error because of that."""
    said = context.folder / "pid-1"
    if context.member.index == 1:
        said.write_text(str(os.getpid()))
        raise ZeroDivisionError("division by zero in process 1")
    while not (said.exists() and said.read_text()):
        signal.sigtimedwait([], 0.01)
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(int(said.read_text()))], [], [])
    (context.folder / "noticed").touch()
    raise RuntimeError("connection closed by peer")
