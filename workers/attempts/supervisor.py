"""One trainer process and what attends to it: its order, its progress, its end.

Never imports torch, and writes nothing to the job's row.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
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

#: A trainer asked to end may write a checkpoint first.
GRACE_S = 60.0
_POLL_S = 0.2

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """Signals to this process that end its attempts: how many came, and what they mean to a job."""

    #: "cancelled" where a command runs its own job, "drained" where a worker runs somebody's.
    because: str
    count: Callable[[], int]


class TrainerProcess:
    """A running trainer; it cannot outlive this object's process, nor the lease."""

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
        self.leash = self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            if self.leash is not None:
                self.leash.write(json.dumps(order).encode() + b"\n")

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def progress(self) -> Iterator[Mapping[str, Any]]:
        """What it has said since the last time; waits a moment for something to come."""
        for said in self._lines.read(timeout_s=_POLL_S if self.runs else 0):
            if "result" in said:
                self._sent_result = Result(**said["result"])
            else:
                yield self._pace.timed(said, at_s=time.monotonic())

    def ask_to_end(self, because: str) -> None:
        """Ask once; the trainer saves what it can and ends. Asked for GRACE_S, it is killed."""
        if self._asked_at is None:
            self._asked_at, self._asked_because = time.monotonic(), because
            self._process.send_signal(signal.SIGTERM)
        elif time.monotonic() - self._asked_at > GRACE_S:
            self.kill()

    def kill(self) -> None:
        """End the process and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Make sure that it has ended with whatever it started, and give its pipes back."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def result(self, folder: Path, fence: int) -> Result:
        """How the attempt ended, once it has."""
        return conclude(
            self._sent_result or read_result(folder, fence),
            exit_code=self._process.wait(),
            asked_because=self._asked_because,
            memory_ran_out=memory_kills() > self._kills_before,
        )


def order_for(
    job: Job, folder: Path, settings: Settings, *, until: float, handlers: Mapping[str, str] | None
) -> dict[str, Any]:
    """What a trainer is told; it goes through a pipe, because settings may hold passwords."""
    places = {name: value if value is None else str(value) for name, value in asdict(settings).items()}
    return {
        "job_id": job.id,
        "fence": job.fence,
        "folder": str(folder),
        "settings": places,
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
) -> Result:
    """Run one attempt in a trainer process; how it ended.

    The trainer is asked to end on an interruption, on a cancel, and once its deadline is past. A second
    interruption waits no longer.

    Raises:
        LeaseLost: the job is no longer ours, so the trainer was killed.
    """
    trainer = TrainerProcess(order, log=log)
    crash_point("after_spawn")
    heartbeat.feed(trainer.leash)
    try:
        while trainer.runs and not heartbeat.lost.is_set():
            _pass_on(trainer, heartbeat, on_progress)
            log.keep_small()
            if (because := _asked_because(heartbeat, interruption)) is not None:
                trainer.ask_to_end(because)
            if interruption.count() > 1:
                trainer.kill()
        _pass_on(trainer, heartbeat, on_progress)
    finally:
        heartbeat.feed(None)
        trainer.close()
    if heartbeat.lost.is_set():
        raise LeaseLost(order["job_id"], fence=order["fence"])
    return trainer.result(Path(order["folder"]), order["fence"])


def _asked_because(heartbeat: Heartbeat, interruption: Interruption) -> str | None:
    if heartbeat.cancel_requested.is_set():
        return "cancelled"
    if interruption.count():
        return interruption.because
    return "deadline" if heartbeat.overdue.is_set() else None


def _pass_on(trainer: TrainerProcess, heartbeat: Heartbeat, on_progress: Progress) -> None:
    for said in trainer.progress():
        heartbeat.progress = said
        on_progress(said)


@contextlib.contextmanager
def interrupts_counted(*more: signal.Signals) -> Iterator[Callable[[], int]]:
    """Inside, Ctrl-C, SIGTERM and `more` are counted, not raised, so that the trainer can save first."""
    noted: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, *more):
        # Only the main thread may; elsewhere signals are somebody else's business.
        with contextlib.suppress(ValueError):
            before[number] = signal.signal(number, lambda number, _: noted.append(number))
    try:
        yield lambda: len(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
