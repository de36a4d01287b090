"""Handlers that replace training in the tests of the job system: each function is a job's whole work."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.attempts.context import JobContext
from workers.errors import SpecInvalid

#: A device that is always full.
_FULL_DEVICE = Path("/dev/full")


def succeed(context: JobContext) -> Mapping[str, Any]:
    """Measure something and succeed."""
    for step in (1, 2):
        context.report("training", step, 2, loss=1.0 / step)
        context.run.metrics({"train/loss": 1.0 / step}, step=step)
    return {"adapter": "bio@1", "fence": context.fence}


def begin_anew(context: JobContext) -> Mapping[str, Any]:
    """Take no checkpoint up."""
    context.checkpoint_discarded("checkpoint-3 is not taken up: no reason")
    return {}


def measure_until_stopped(context: JobContext) -> Mapping[str, Any]:
    """Measure a step every few milliseconds until a file `enough` exists; report at the start and the end."""
    report, step = context.folder / "report.txt", 0
    report.write_text("draft")
    context.run.artifact(report, folder="report")
    while not (context.folder / "enough").exists():
        context.run.metrics({"train/loss": 1.0 / (step + 1)}, step=step)
        step += 1
        signal.sigtimedwait([], 0.05)
        (context.folder / "measuring").touch()
    report.write_text("final")
    context.run.artifact(report, folder="report")
    return {"steps": step}


def wait_to_be_stopped(context: JobContext) -> Mapping[str, Any]:
    """Write the process id, then run until asked to stop; save a checkpoint first."""
    (context.folder / "pid").write_text(str(os.getpid()))
    context.report("waiting", 0, 1, pid=os.getpid())
    while not context.stop_requested():
        signal.sigtimedwait([], 0.02)
    (context.folder / "checkpoint").write_text("saved")
    context.raise_if_stopped()
    return {}


def look_for_the_first(context: JobContext) -> Mapping[str, Any]:
    """Return whether the job process of the previous attempt still runs."""
    from tests.workers.started_processes import command_line

    return {"first_runs": bool(command_line(int((context.folder / "pid").read_text())))}


def outlast_the_lease(context: JobContext) -> Mapping[str, Any]:
    """Work for longer than the lease that the test gives."""
    threading.Event().wait(2.5)
    return {}


def ignore_everything(context: JobContext) -> Mapping[str, Any]:
    """Never end by itself."""
    (context.folder / "pid").write_text(str(os.getpid()))
    context.report("ignoring", 0, 1)
    threading.Event().wait()
    return {}


def die(context: JobContext) -> Mapping[str, Any]:
    """End without a result."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fill_the_disk(context: JobContext) -> Mapping[str, Any]:
    """Write to a full device."""
    _FULL_DEVICE.write_bytes(b"x")
    return {}


def fill_the_disk_for_good(context: JobContext) -> Mapping[str, Any]:
    """Fill the disk for the result too."""
    (context.folder / f".result-{context.fence}.json.{os.getpid()}").symlink_to(_FULL_DEVICE)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def need_less_memory(context: JobContext) -> Mapping[str, Any]:
    """Have memory for two sequences, not for more."""
    rows = context.micro_batch(8)
    if rows > 2:
        raise MemoryError
    return {"rows": rows}


def chain(context: JobContext) -> Mapping[str, Any]:
    """Work in dependent steps with checkpoints, and register the result."""
    from tests.faults.chained import run_chain

    return run_chain(context)


def refuse(context: JobContext) -> Mapping[str, Any]:
    """Refuse the request."""
    raise SpecInvalid("rank", allowed="a whole number in 1..1024", value=0)


def read_what_was_asked_for(context: JobContext) -> Mapping[str, Any]:
    """Fetch the dataset of the request, as training does."""
    dataset = context.registry.datasets.get(str(context.job.spec["train_dataset"]))
    return {"rows": len((context.registry.materialise(dataset) / dataset.files[0].path).read_bytes())}


def fail(context: JobContext) -> Mapping[str, Any]:
    """Raise an unexpected exception."""
    raise ZeroDivisionError("division by zero in step 3")


def print_and_read(context: JobContext) -> Mapping[str, Any]:
    """Use the standard streams, as a library may."""
    sys.stdout.write("printed by a library\n")
    sys.stdout.flush()
    os.write(1, b"written to descriptor 1\n")
    return {"read": sys.stdin.read()}


def look_around(context: JobContext) -> Mapping[str, Any]:
    """Return what the process was started with."""
    return {"environ": dict(os.environ), "path": sys.path, "arguments": sys.argv}
