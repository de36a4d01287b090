"""What a job's code is given: the registry, its spec, a folder, and ways to report and to be stopped."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.entities import Job
from registry.service import Registry
from workers.attempts.process_group import Place
from workers.errors import StopRequested
from workers.tracking.spool import Run


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """One attempt of one job, seen from inside its trainer process."""

    registry: Registry
    job: Job
    #: Names this attempt in everything it writes.
    fence: int
    #: The job's own, the same for every attempt: checkpoints are found here again.
    folder: Path
    #: Where metrics, tags and files of the run go.
    run: Run
    #: Which of the job's processes this is.
    place: Place
    #: Answers true once somebody asked the job to end.
    stop_requested: Callable[[], bool]
    #: Receives progress; `report` fills it in.
    send: Callable[[Mapping[str, object]], None]

    def report(self, phase: str, step: int, total: int, **figures: float) -> None:
        """Say how far the job is; the supervisor shows it and writes it to the job's row."""
        self.send({"phase": phase, "step": step, "total": total, **figures})

    def micro_batch(self, size: int) -> int:
        """How much of a batch to hold in memory at once: less after every attempt that ran out of memory."""
        return max(1, size >> self.job.memory_cuts)

    def raise_if_stopped(self) -> None:
        """End here if somebody asked for it.

        Raises:
            StopRequested: somebody did.
        """
        if self.stop_requested():
            raise StopRequested("the job was asked to end")
