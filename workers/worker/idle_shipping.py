"""What a worker does between jobs: it lets MLflow have the runs that it missed when their jobs ended."""

import contextlib
import threading
from types import TracebackType
from typing import Self

from registry.errors import RegistryError
from registry.service import Registry
from workers.tracking.shipping import NO_TRACKING, pending_folders, ship_pending
from workers.worker.identity import Service

SHIP_EVERY_S = 60.0
#: A worker that is to end waits no longer than this for a shipment under way.
_LIMIT_S = 30.0


class IdleShipping:
    """A thread that ships now and then while the block runs and the worker has no job."""

    def __init__(self, registry: Registry, service: Service, *, every_s: float = SHIP_EVERY_S) -> None:
        self._registry = registry
        self._service = service
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
                self._turn()

    def _turn(self) -> None:
        # Importing MLflow would take time from a job, whose own shipper takes along what others left anyway.
        if is_idle(self._registry, self._service) and pending_folders(self._registry.settings):
            ship_pending(self._registry.settings, timeout_s=_LIMIT_S)


def is_idle(registry: Registry, service: Service) -> bool:
    """Whether the worker runs no job."""
    running = registry.jobs.list(["running"], limit=None)
    return not any(job.worker == service.name for job in running)
