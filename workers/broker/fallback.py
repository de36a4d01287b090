"""What a Celery worker does when hints stay away: it takes jobs from the database itself.

A broker may be down, or a connection to it half open, which kombu notices after 51 s.
"""

import contextlib
import threading
import time
from collections.abc import Callable

from registry.errors import RegistryError
from registry.service import Registry
from workers.broker.slot import slot_of
from workers.worker.identity import Service

#: A worker that is free while jobs wait takes one after this time, with or without a hint.
PATIENCE_S = 10.0
_LOOK_EVERY_S = 1.0


class Fallback:
    """A thread of the worker's main process; `take` runs one job, if there is one."""

    def __init__(
        self, registry: Registry, service: Service, take: Callable[[], bool], *, patience_s: float
    ) -> None:
        self._registry = registry
        self._service = service
        self._take = take
        self._patience_s = patience_s
        self._stopping = threading.Event()
        self._free_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="fallback", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more; returns when the job under way has ended."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            with contextlib.suppress(RegistryError):
                self._look()

    def _look(self) -> None:
        with slot_of(self._service.process_id) as is_free:
            waiting = self._registry.jobs.claimable()
            if not is_free or not any(waiting.get(queue) for queue in self._service.queues):
                self._free_since = None
                return
            self._free_since = self._free_since or time.monotonic()
            if time.monotonic() - self._free_since > self._patience_s:
                self._free_since = None
                self._take()
