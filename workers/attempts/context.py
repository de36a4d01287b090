"""The context of a job's code: registry, request, folder, and functions to report and to be stopped."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from registry.entities import Job
from registry.service import Registry
from workers.attempts.cost import PhaseClock
from workers.attempts.process_group import GroupMember
from workers.errors import StopRequested
from workers.tracking.spool import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """One attempt of one job, as its job process sees it."""

    registry: Registry
    job: Job
    #: Identifies this attempt in everything it writes.
    fence: int
    #: The job's own, the same for every attempt, so that a retry finds its checkpoints.
    folder: Path
    #: Receives metrics, tags and files.
    run: Run
    #: Which of the job's processes this is.
    member: GroupMember
    #: Whether the job was asked to stop.
    stop_requested: Callable[[], bool]
    #: Receives progress, and events for whoever looks on; `report` fills it in.
    send: Callable[[Mapping[str, object]], None]
    #: Counts the seconds between reports.
    clock: PhaseClock = field(default_factory=PhaseClock)

    def report(self, phase: str, step: int, total: int, **figures: float) -> None:
        """Report progress; the supervisor shows it and writes it to the job's row."""
        self.clock.enter(phase)
        self.send({"phase": phase, "step": step, "total": total, **figures})

    def computes_in(self, dtype: str) -> None:
        """Put on record what this attempt computes in, e.g. `bfloat16`: the first one chose it."""
        if self.member.is_first:
            self.registry.jobs.set_compute_dtype(self.job.id, dtype, self.fence)
            self.run.tags({"zoo.compute_dtype": dtype})

    def checkpoint_discarded(self, sentence: str) -> None:
        """Say in the log, in the job's journal and to whoever looks on that a checkpoint is not taken up."""
        _log.warning(sentence)
        self.send({"event": "checkpoint_discarded", "reason": sentence})
        self.registry.jobs.add_event(
            self.job.id, "checkpoint_discarded", {"reason": sentence}, fence=self.fence
        )

    def micro_batch(self, size: int) -> int:
        """The micro-batch size: half of `size` for every attempt that ran out of memory."""
        return max(1, size >> self.job.memory_cuts)

    def raise_if_stopped(self) -> None:
        """End the job here if it was asked to stop.

        Raises:
            StopRequested: it was.
        """
        if self.stop_requested():
            raise StopRequested("the job was asked to stop")
