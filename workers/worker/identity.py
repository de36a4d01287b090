"""One worker as others see it, and the thread that keeps it seen and puts right what dead ones left."""

import contextlib
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from registry.errors import RegistryError
from registry.service import Registry
from workers.attempts.reconciler import reconcile
from workers.processes.gpus import visible_gpus
from workers.processes.owner import owner_name

#: A dead owner on this host is noticed within this time and a moment.
RECONCILE_EVERY_S = 1.0
_ANNOUNCE_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a worker offers; `name` is as owners of jobs are named, `gpu` as CUDA_VISIBLE_DEVICES says."""

    name: str
    process_id: int
    queues: tuple[str, ...]
    gpu: str | None


class Reconciling:
    """A thread that reconciles while the block runs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(RECONCILE_EVERY_S):
            self.turn()

    def turn(self) -> None:
        """Once; a database that is away is asked again the next time."""
        with contextlib.suppress(RegistryError):
            reconcile(self._registry)


class Upkeep(Reconciling):
    """Besides, says that a worker is there while the block runs, and takes it off the list at the end."""

    def __init__(self, registry: Registry, service: Service, *, draining: Callable[[], bool]) -> None:
        super().__init__(registry)
        self._service = service
        self._draining = draining
        self._announced_at = -math.inf

    def __enter__(self) -> Self:
        self.turn()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        with contextlib.suppress(RegistryError):
            self._registry.workers.remove(self._service.name)

    def turn(self) -> None:
        """Once; the announcement less often, but a worker that drains says so soon."""
        super().turn()
        if self._draining() or time.monotonic() - self._announced_at > _ANNOUNCE_EVERY_S:
            with contextlib.suppress(RegistryError):
                self._announce()
                self._announced_at = time.monotonic()

    def _announce(self) -> None:
        self._registry.workers.announce(
            self._service.name,
            host=platform.node(),
            process_id=self._service.process_id,
            queues=self._service.queues,
            gpu=self._service.gpu,
            state="draining" if self._draining() else "working",
        )


def service_here(queues: Sequence[str]) -> Service:
    """What this process offers, as its environment says."""
    gpu = ",".join(visible_gpus(os.environ)) or None
    return Service(name=owner_name(), process_id=os.getpid(), queues=tuple(queues), gpu=gpu)


def describe(service: Service) -> str:
    """For a log line: `gpu, cpu (GPU 0)`."""
    return ", ".join(service.queues) + ("" if service.gpu is None else f" (GPU {service.gpu})")
