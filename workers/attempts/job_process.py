"""The child process that runs one attempt of one job; torch lives and dies here.

    python -m workers.attempts.job_process < order

The order, one JSON line, says which job under which fence; the pipe it comes through is the leash. A job of
several processes has a trainer that starts this program again for each of them, and does no work itself.
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
from workers.attempts.context import JobContext
from workers.attempts.process_group import Place, Ranks
from workers.attempts.results import Result, failure, write_result
from workers.errors import HandlerUnknown
from workers.processes.gpus import gpus_for, limited_to, lock_gpus
from workers.processes.heavy_imports import heavy_imports
from workers.processes.parent_watchdog import die_with_parent, end_like, read_order, start_watchdog
from workers.tracking.spool import NoRun, Run

#: Kind of job -> the function that carries it out.
HANDLERS = {
    "train": "workers.jobs.train:run",
    "eval": "workers.jobs.evaluation:run",
    "compose": "workers.jobs.compose:run",
}


def main() -> int:
    """Run the attempt that the order names; the result says how it ended."""
    leash, progress = _private_pipes()
    order = read_order(leash)
    die_with_parent(order["parent_pid"])
    ranks = Ranks()
    start_watchdog(leash, until=order["until"], on_renewal=ranks.lengthen)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to decide on

    def send(said: Mapping[str, object]) -> None:
        os.write(progress, json.dumps(said, default=str).encode() + b"\n")

    if "place" in order:
        return _end_as_rank(attempt(order, stop_requested=stop.is_set, send=send), send)
    if order["processes"] > 1:
        result = _attempt_together(order, ranks, stop_requested=stop.is_set, send=send)
    else:
        result = attempt(order, stop_requested=stop.is_set, send=send)
    try:
        write_result(Path(order["folder"]), order["fence"], result)
    except OSError as error:
        # A full disk has no room for the result either; the pipe has.
        send({"result": vars(failure(error))})
    return 0


def _attempt_together(
    order: Mapping[str, Any],
    ranks: Ranks,
    *,
    stop_requested: Callable[[], bool],
    send: Callable[[Mapping[str, object]], None],
) -> Result:
    """The result of the process that decided; if it left none, this process ends just as that one did."""
    try:
        end = ranks.run(order, gpu_locks=_take_gpus(order), stop_requested=stop_requested, send=send)
    except BaseException as error:  # as in `attempt`
        traceback.print_exception(error)
        return failure(error)
    if end.result is None:
        sys.stderr.write(f"rank {end.rank} ended without a result, exit code {end.exit_code}\n")
        end_like(end.exit_code or 0)
    return end.result


def _end_as_rank(result: Result, send: Callable[[Mapping[str, object]], None]) -> int:
    """Tell the result; after a failure, stay until killed: a broken connection would hide the cause."""
    send({"result": vars(result)})
    if result.state == "failed":
        threading.Event().wait()
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
    place = Place(**order.get("place", {}))
    try:
        _take_gpus(order)
        with Registry.open(settings) as registry:
            context = JobContext(
                registry=registry,
                job=registry.jobs.get(order["job_id"]),
                fence=order["fence"],
                folder=folder,
                run=Run(folder) if place.is_first else NoRun(),
                place=place,
                stop_requested=stop_requested,
                send=send,
            )
            outcome = find_handler(context.job, order["handlers"] or HANDLERS)(context)
            context.run.close()
    except BaseException as error:  # the one border where a job's failure becomes a record
        traceback.print_exception(error)
        return failure(error)
    return Result(state="succeeded", reason="ok", outcome=outcome)


def _take_gpus(order: Mapping[str, Any]) -> list[int]:
    """Lock a GPU for each process, and see no other from now on; the locks' descriptors."""
    gpus = gpus_for(order["processes"], order["gpus"])
    os.environ |= limited_to(gpus)
    return lock_gpus(gpus)


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
    with heavy_imports():
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
