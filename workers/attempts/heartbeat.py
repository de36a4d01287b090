"""The thread that keeps a job's lease: it renews it, tells the trainer how long it holds, and nothing else.

A terminal that blocks, a slow tracker or a long write elsewhere cannot make a job lose its lease.
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
#: After this share of a lease without a renewal the attempt ends: nobody runs on a lease he cannot prove.
_SHARE_OF_LEASE = 0.9


class Heartbeat:
    """Beats until it is stopped; `lost`, `cancel_requested` and `overdue` say what the last answers meant."""

    def __init__(self, jobs: JobStore, job: Job, *, lease_s: float) -> None:
        self.lost = threading.Event()
        self.cancel_requested = threading.Event()
        self.overdue = threading.Event()
        #: what the next beat writes to the job's row
        self.progress: Mapping[str, Any] | None = None
        self._jobs = jobs
        self._job = job
        self._lease_s = lease_s
        #: by the monotonic clock; the database began to count later than we did, so it counts longer
        self.held_until = time.monotonic() + lease_s * _SHARE_OF_LEASE
        self._leash: IO[bytes] | None = None
        self._leash_lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)
        self._thread.start()

    def feed(self, leash: IO[bytes] | None) -> None:
        """Write into this pipe, after every beat from now on, how long the lease holds; None ends that."""
        with self._leash_lock:
            self._leash = leash

    def stop(self) -> None:
        """Beat no more; returns when the last beat is over."""
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
        # A trainer that has ended is noticed elsewhere.
        with self._leash_lock, contextlib.suppress(BrokenPipeError):
            if answer.alive and self._leash is not None:
                self._leash.write(extended_to(self.held_until))
        return answer.alive
