"""The job process, which runs one attempt of one job; torch is imported only here.

    python -m workers.attempts.job_process < order

The order, one JSON line, names the job and its fence; the parent watchdog reads the rest of that pipe. For a
job of several processes this process starts the program again for each of them and does no work itself.
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
from registry.settings import Settings, system_metrics_every_s
from workers.attempts.context import JobContext
from workers.attempts.cost import peak_memory
from workers.attempts.process_group import GroupMember, ProcessGroup
from workers.attempts.results import Result, failure, write_result
from workers.errors import HandlerUnknown
from workers.processes.gpus import gpus_for, limited_to, lock_gpus
from workers.processes.heavy_imports import heavy_imports
from workers.processes.parent_watchdog import die_with_parent, end_like, read_order, start_watchdog
from workers.processes.spinning import limit_spinning
from workers.processes.system_metrics import SystemMetrics
from workers.tracking.spool import NoRun, Run

#: Kind of job -> the function that does its work.
HANDLERS = {
    "train": "workers.jobs.train:run",
    "eval": "workers.jobs.evaluation.job:run",
    "compose": "workers.jobs.compose:run",
}


def main() -> int:
    """Run the attempt that the order names, and leave its result."""
    orders, progress = _private_pipes()
    order = read_order(orders)
    die_with_parent(order["parent_pid"])
    group = ProcessGroup()
    start_watchdog(orders, until=order["until"], on_renewal=group.extend_to)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides what Ctrl-C does

    def send(message: Mapping[str, object]) -> None:
        os.write(progress, json.dumps(message, default=str).encode() + b"\n")

    if "member" in order:
        return _end_as_member(attempt(order, stop_requested=stop.is_set, send=send), send)
    if order["processes"] > 1:
        result = _attempt_together(order, group, stop_requested=stop.is_set, send=send)
    else:
        result = attempt(order, stop_requested=stop.is_set, send=send)
    try:
        write_result(Path(order["folder"]), order["fence"], result)
    except OSError as error:
        # A full disk cannot take the result either, but the pipe can.
        send({"result": vars(failure(error))})
    return 0


def _attempt_together(
    order: Mapping[str, Any],
    group: ProcessGroup,
    *,
    stop_requested: Callable[[], bool],
    send: Callable[[Mapping[str, object]], None],
) -> Result:
    """The result of the process that decided; if it left none, this process ends as that one did."""
    try:
        end = group.run(order, gpu_locks=_take_gpus(order), stop_requested=stop_requested, send=send)
    except BaseException as error:  # as in `attempt`
        traceback.print_exception(error)
        return failure(error)
    if end.result is None:
        sys.stderr.write(f"process {end.index} ended without a result, exit code {end.exit_code}\n")
        end_like(end.exit_code or 0)
    return end.result


def _end_as_member(result: Result, send: Callable[[Mapping[str, object]], None]) -> int:
    """Send the result; after a failure wait to be killed: a broken connection would hide the cause."""
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
    """Call the job's handler; an exception becomes a result, and its traceback goes to the log."""
    folder = Path(order["folder"])
    settings = Settings.from_json(order["settings"])
    # Not in the environment that the process starts with, which stays readable in /proc.
    os.environ.update(settings.driver_variables)
    member = GroupMember(**order.get("member", {}))
    try:
        _take_gpus(order)
        with Registry.open(settings) as registry:
            context = JobContext(
                registry=registry,
                job=registry.jobs.get(order["job_id"]),
                fence=order["fence"],
                folder=folder,
                run=Run(folder) if member.is_first else NoRun(),
                member=member,
                stop_requested=stop_requested,
                send=send,
            )
            handler = find_handler(context.job, order["handlers"] or HANDLERS)
            limit_spinning()
            every_s = system_metrics_every_s(os.environ)
            with SystemMetrics(
                lambda values, step: context.run.metrics(values, step=step), folder=folder, every_s=every_s
            ):
                outcome = handler(context)
            context.run.metrics({**context.clock.metrics(), **peak_memory()})
            context.run.close()
    except BaseException as error:  # the one place where a job's failure becomes a result
        traceback.print_exception(error)
        return failure(error)
    return Result(state="succeeded", reason="ok", outcome=outcome)


def _take_gpus(order: Mapping[str, Any]) -> list[int]:
    """Lock a GPU for each process, and hide all others from torch; the locks' descriptors."""
    gpus = gpus_for(order["processes"], order["gpus"])
    os.environ |= limited_to(gpus)
    return lock_gpus(gpus)


def find_handler(job: Job, handlers: Mapping[str, str]) -> Callable[[JobContext], Mapping[str, Any]]:
    """Import the function for a kind of job.

    Raises:
        HandlerUnknown: the table has no function for it.
    """
    if job.kind not in handlers:
        raise HandlerUnknown(
            f"no handler is registered for jobs of kind {job.kind!r}, only for: {', '.join(handlers)}"
        )
    module, _, name = handlers[job.kind].partition(":")
    with heavy_imports():
        found: Callable[[JobContext], Mapping[str, Any]] = getattr(importlib.import_module(module), name)
    return found


def _private_pipes() -> tuple[int, int]:
    """Orders and progress on descriptors of their own.

    Libraries that print then write to the log, and standard input is empty for them.
    """
    orders, progress = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return orders, progress


if __name__ == "__main__":
    sys.exit(main())
