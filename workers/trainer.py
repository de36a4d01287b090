"""The child process that runs one attempt of one job; torch lives and dies here.

    python -m workers.trainer < order

The order, one JSON line, says which job under which fence; the pipe it comes through is the leash.
Standard output carries progress, a JSON line each; everything printed goes to the log.
"""

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from registry.entities import Job
from registry.service import Registry
from registry.settings import Settings
from workers.context import JobContext
from workers.errors import HandlerUnknown
from workers.gpus import lock_gpus
from workers.leash import die_with_parent, hold_leash, read_order
from workers.results import Result, failure, write_result
from workers.spool import Run

#: Kind of job -> the function that carries it out.
HANDLERS = {
    "train": "workers.train:run",
    "eval": "workers.evaluation:run",
    "compose": "workers.compose:run",
}


def main() -> int:
    """Run the attempt that the order names; the result says how it ended."""
    leash, progress = _private_pipes()
    order = read_order(leash)
    die_with_parent(order["parent_pid"])
    hold_leash(leash, until=order["until"])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to decide on

    def send(said: Mapping[str, object]) -> None:
        os.write(progress, json.dumps(said, default=str).encode() + b"\n")

    result = attempt(order, stop_requested=stop.is_set, send=send)
    try:
        write_result(Path(order["folder"]), order["fence"], result)
    except OSError as error:
        # A full disk has no room for the result either; the pipe has.
        send({"result": vars(failure(error))})
    return 0


def attempt(
    order: Mapping[str, Any],
    *,
    stop_requested: Callable[[], bool],
    send: Callable[[Mapping[str, object]], None],
) -> Result:
    """Call the job's handler; whatever it raises becomes a result, and its traceback goes to the log."""
    folder = Path(order["folder"])
    places = order["settings"]
    settings = Settings(**{**places, "home": Path(places["home"]), "lease_s": float(places["lease_s"])})
    try:
        lock_gpus(order["gpus"])
        with Registry.open(settings) as registry:
            context = JobContext(
                registry=registry,
                job=registry.jobs.get(order["job_id"]),
                fence=order["fence"],
                folder=folder,
                run=Run(folder),
                stop_requested=stop_requested,
                send=send,
            )
            outcome = find_handler(context.job, order["handlers"] or HANDLERS)(context)
            context.run.close()
    except BaseException as error:  # the one border where a job's failure becomes a record
        traceback.print_exception(error)
        return failure(error)
    return Result(state="succeeded", reason="ok", outcome=outcome)


def find_handler(job: Job, handlers: Mapping[str, str]) -> Callable[[JobContext], Mapping[str, Any]]:
    """Import the function for a kind of job.

    Raises:
        HandlerUnknown: there is none.
    """
    if job.kind not in handlers:
        raise HandlerUnknown(
            f"no code is registered for jobs of kind {job.kind!r}: {', '.join(handlers)} are"
        )
    module, _, name = handlers[job.kind].partition(":")
    found: Callable[[JobContext], Mapping[str, Any]] = getattr(importlib.import_module(module), name)
    return found


def _private_pipes() -> tuple[int, int]:
    """Leash and progress on descriptors of their own.

    What a library prints then goes to the log, and what it reads from standard input is nothing.
    """
    leash, progress = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return leash, progress


if __name__ == "__main__":
    sys.exit(main())
