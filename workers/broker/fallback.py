"""A Celery worker's fallback: when no wake-up message arrives, it takes jobs from the database itself.

A broker may be down, or a connection to it half open, which kombu notices only after 51 s.
"""

import contextlib
import threading
import time
from collections.abc import Callable

from registry.errors import RegistryError
from registry.service import Registry
from workers.broker.slot import slot_of
from workers.worker.identity import WorkerIdentity

#: A worker that is idle while jobs wait takes one after this time, with or without a wake-up message.
PATIENCE_S = 10.0
_POLL_EVERY_S = 1.0


class Fallback:
    """A thread of the worker's main process; `take` claims and runs one job, if one is queued."""

    def __init__(
        self, registry: Registry, identity: WorkerIdentity, take: Callable[[], bool], *, patience_s: float
    ) -> None:
        self._registry = registry
        self._identity = identity
        self._take = take
        self._patience_s = patience_s
        self._stopping = threading.Event()
        self._idle_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="fallback", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more jobs; returns when the running one has ended."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_POLL_EVERY_S):
            with contextlib.suppress(RegistryError):
                self._take_overdue_job()

    def _take_overdue_job(self) -> None:
        with slot_of(self._identity.process_id) as is_free:
            claimable = self._registry.jobs.claimable()
            if not is_free or not any(claimable.get(queue) for queue in self._identity.queues):
                self._idle_since = None
                return
            self._idle_since = self._idle_since or time.monotonic()
            if time.monotonic() - self._idle_since > self._patience_s:
                self._idle_since = None
                self._take()
