"""What a worker does between jobs: it ships the runs that MLflow did not receive when their jobs ended."""

import contextlib
import threading
from types import TracebackType
from typing import Self

from registry.errors import RegistryError
from registry.service import Registry
from workers.tracking.ended_runs import close_ended_runs
from workers.tracking.shipping import NO_TRACKING, pending_folders, ship_pending
from workers.worker.identity import WorkerIdentity

SHIP_EVERY_S = 60.0
#: How long a worker that shuts down waits for a shipment that has begun.
_LIMIT_S = 30.0


class IdleShipping:
    """A thread that ships at intervals while the block runs and the worker has no job."""

    def __init__(
        self, registry: Registry, identity: WorkerIdentity, *, every_s: float = SHIP_EVERY_S
    ) -> None:
        self._registry = registry
        self._identity = identity
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="idle shipping", daemon=True)

    def __enter__(self) -> Self:
        if self._registry.settings.mlflow_tracking_uri != NO_TRACKING:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            with contextlib.suppress(RegistryError, OSError):
                self._ship_if_idle()

    def _ship_if_idle(self) -> None:
        # Importing MLflow would take time from a job, and a job's own shipper ships what others left anyway.
        close_ended_runs(self._registry)
        if is_idle(self._registry, self._identity) and pending_folders(self._registry.settings):
            ship_pending(self._registry.settings, timeout_s=_LIMIT_S)


def is_idle(registry: Registry, identity: WorkerIdentity) -> bool:
    """Whether the worker runs no job."""
    running = registry.jobs.list(["running"], limit=None)
    return not any(job.worker == identity.name for job in running)
