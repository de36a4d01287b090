"""The supervisor of one job process: its order, its progress, its end.

Never imports torch, and writes nothing to the job's row.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.crash_points import crash_point
from registry.entities import Job
from registry.errors import LeaseLost
from registry.settings import Settings
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.pace import Pace
from workers.attempts.results import Result, conclude, read_result
from workers.processes.child_environment import child_command, child_environment
from workers.processes.gpus import visible_gpus
from workers.processes.job_log import JobLog
from workers.processes.json_lines import JsonLines
from workers.processes.memory_kills import memory_kills

#: The time in which a job process that was asked to stop may write a checkpoint.
GRACE_S = 60.0
_POLL_S = 0.2

Progress = Callable[[Mapping[str, Any]], None]

#: Receives events other than progress: kind and details.
Events = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """Signals to this process that end its attempts: how many have arrived, and what they mean for a job."""

    #: "cancelled" for a command that runs its own job, "drained" for a worker.
    because: str
    count: Callable[[], int]


class JobProcess:
    """A running job process; it cannot outlive this object's process, nor the lease."""

    def __init__(self, order: Mapping[str, Any], *, log: JobLog) -> None:
        self._kills_before = memory_kills()
        self._asked_at: float | None = None
        self._asked_because: str | None = None
        self._sent_result: Result | None = None
        self._pace = Pace()
        self._process = subprocess.Popen(
            child_command("workers.attempts.job_process"),
            env=child_environment(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.descriptor,
            bufsize=0,
            start_new_session=True,
        )
        self._lines = JsonLines(self._process.stdout)
        #: Carries the order, then the deadlines for the process's parent watchdog.
        self.watchdog_pipe = self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            if self.watchdog_pipe is not None:
                self.watchdog_pipe.write(json.dumps(order).encode() + b"\n")

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def progress(self) -> Iterator[Mapping[str, Any]]:
        """Progress messages since the last call; waits up to 0.2 s for the first."""
        for message in self._lines.read(timeout_s=_POLL_S if self.runs else 0):
            if "result" in message:
                self._sent_result = Result(**message["result"])
            elif "event" in message:
                yield message
            else:
                yield self._pace.timed(message, at_s=time.monotonic())

    def ask_to_end(self, because: str) -> None:
        """Ask the process once to save a checkpoint and end; after GRACE_S, kill it."""
        if self._asked_at is None:
            self._asked_at, self._asked_because = time.monotonic(), because
            self._process.send_signal(signal.SIGTERM)
        elif time.monotonic() - self._asked_at > GRACE_S:
            self.kill()

    def kill(self) -> None:
        """Kill the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill the process and its children if they still run, and close its pipes."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def result(self, folder: Path, fence: int) -> Result:
        """How the attempt ended; waits for the end."""
        return conclude(
            self._sent_result or read_result(folder, fence),
            exit_code=self._process.wait(),
            asked_because=self._asked_because,
            memory_ran_out=memory_kills() > self._kills_before,
        )


def order_for(
    job: Job, folder: Path, settings: Settings, *, until: float, handlers: Mapping[str, str] | None
) -> dict[str, Any]:
    """The order to a job process; it goes through a pipe, because settings may contain passwords."""
    return {
        "job_id": job.id,
        "fence": job.fence,
        "folder": str(folder),
        "settings": settings.to_json(),
        "parent_pid": os.getpid(),
        "processes": job.processes,
        "gpus": visible_gpus(os.environ),
        "until": until,
        "handlers": handlers,
    }


def supervise(
    order: Mapping[str, Any],
    heartbeat: Heartbeat,
    log: JobLog,
    *,
    interruption: Interruption,
    on_progress: Progress,
    on_event: Events = lambda *_: None,
) -> Result:
    """Run one attempt in a job process; how it ended.

    The process is asked to stop on an interruption, on a cancel, and when its deadline has passed. A second
    interruption kills it.

    Raises:
        LeaseLost: this process no longer holds the job, so the job process was killed.
    """
    process = JobProcess(order, log=log)
    crash_point("after_spawn")
    heartbeat.write_deadlines_to(process.watchdog_pipe)
    try:
        while process.runs and not heartbeat.lost.is_set():
            _pass_on(process, heartbeat, on_progress, on_event)
            log.keep_small()
            if (because := _asked_because(heartbeat, interruption)) is not None:
                process.ask_to_end(because)
            if interruption.count() > 1:
                process.kill()
        _pass_on(process, heartbeat, on_progress, on_event)
    finally:
        heartbeat.write_deadlines_to(None)
        process.close()
    if heartbeat.lost.is_set():
        raise LeaseLost(order["job_id"], fence=order["fence"])
    return process.result(Path(order["folder"]), order["fence"])


def _asked_because(heartbeat: Heartbeat, interruption: Interruption) -> str | None:
    if heartbeat.cancel_requested.is_set():
        return "cancelled"
    if interruption.count():
        return interruption.because
    return "deadline" if heartbeat.overdue.is_set() else None


def _pass_on(process: JobProcess, heartbeat: Heartbeat, on_progress: Progress, on_event: Events) -> None:
    for progress in process.progress():
        if "event" in progress:
            on_event(str(progress["event"]), progress)
            continue
        heartbeat.progress = progress
        on_progress(progress)


@contextlib.contextmanager
def interrupts_counted(*more: signal.Signals) -> Iterator[Callable[[], int]]:
    """A block in which Ctrl-C, SIGTERM and `more` are counted, not raised, so that jobs can save first."""
    received: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, *more):
        # Only the main thread may set handlers; in another thread signals are not counted.
        with contextlib.suppress(ValueError):
            before[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield lambda: len(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
