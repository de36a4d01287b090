"""The thread that renews a job's lease and sends each new deadline to the job process; it does nothing else.

So a terminal that blocks, a slow tracker or a long write elsewhere cannot make a job lose its lease.
"""

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from registry.entities import Job
from registry.errors import DiskFull, ServiceUnreachable
from registry.jobs.store import JobStore
from workers.processes.parent_watchdog import extended_to

#: Short, so that a cancel is noticed soon; a beat is one small transaction.
BEAT_EVERY_S = 2.0
#: After this share of a lease without a renewal the attempt ends, before another worker may claim the job.
_SHARE_OF_LEASE = 0.9


class Heartbeat:
    """Renews the lease until it is stopped; the events hold what the database answered."""

    def __init__(self, jobs: JobStore, job: Job, *, lease_s: float) -> None:
        self.lost = threading.Event()
        self.cancel_requested = threading.Event()
        self.overdue = threading.Event()
        #: Written to the job's row with the next beat.
        self.progress: Mapping[str, Any] | None = None
        self._jobs = jobs
        self._job = job
        self._lease_s = lease_s
        #: By the monotonic clock, started before the database's, so that it ends before the lease.
        self.held_until = time.monotonic() + lease_s * _SHARE_OF_LEASE
        self._pipe: IO[bytes] | None = None
        self._pipe_lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)
        self._thread.start()

    def write_deadlines_to(self, pipe: IO[bytes] | None) -> None:
        """After every beat, write the new deadline to this pipe of a parent watchdog; None stops that."""
        with self._pipe_lock:
            self._pipe = pipe

    def stop(self) -> None:
        """Stop; returns when the last beat has ended."""
        self._stopping.set()
        self._thread.join()

    def _beat_on(self) -> None:
        while not self._stopping.wait(min(BEAT_EVERY_S, self._lease_s / 6)):
            try:
                alive = self._beat()
            except (ServiceUnreachable, DiskFull):
                alive = time.monotonic() < self.held_until
            if not alive:
                self.lost.set()
                return

    def _beat(self) -> bool:
        began = time.monotonic()
        answer = self._jobs.beat(
            self._job.id, fence=self._job.fence, lease_s=self._lease_s, progress=self.progress
        )
        if answer.cancel_requested:
            self.cancel_requested.set()
        if answer.overdue:
            self.overdue.set()
        if answer.alive:
            self.held_until = began + self._lease_s * _SHARE_OF_LEASE
        # The supervisor notices a job process that has ended.
        with self._pipe_lock, contextlib.suppress(BrokenPipeError):
            if answer.alive and self._pipe is not None:
                self._pipe.write(extended_to(self.held_until))
        return answer.alive
