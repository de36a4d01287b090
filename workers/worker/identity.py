"""A worker's entry in the list of workers, and the thread that renews it and requeues dead workers' jobs."""

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

#: How often dead owners on this host are looked for.
RECONCILE_EVERY_S = 1.0
_ANNOUNCE_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class WorkerIdentity:
    """A worker: its name, process, queues and GPUs."""

    #: In the form of `workers.processes.owner.owner_name`.
    name: str
    process_id: int
    queues: tuple[str, ...]
    #: In the form of CUDA_VISIBLE_DEVICES; None without a GPU.
    gpu: str | None

    @property
    def served(self) -> str:
        """Its queues and GPUs for a log line: `gpu, cpu (GPU 0)`."""
        return ", ".join(self.queues) + ("" if self.gpu is None else f" (GPU {self.gpu})")


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
            self.run_once()

    def run_once(self) -> None:
        """Reconcile; if the database does not answer, it is tried again the next time."""
        with contextlib.suppress(RegistryError):
            reconcile(self._registry)


class Upkeep(Reconciling):
    """A thread that reconciles and also keeps a worker on the list of workers while the block runs."""

    def __init__(self, registry: Registry, identity: WorkerIdentity, *, draining: Callable[[], bool]) -> None:
        super().__init__(registry)
        self._identity = identity
        self._draining = draining
        self._announced_at = -math.inf

    def __enter__(self) -> Self:
        self.run_once()
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        with contextlib.suppress(RegistryError):
            self._registry.workers.remove(self._identity.name)

    def run_once(self) -> None:
        """Reconcile and, less often, announce the worker; one that drains announces it each time."""
        super().run_once()
        if self._draining() or time.monotonic() - self._announced_at > _ANNOUNCE_EVERY_S:
            with contextlib.suppress(RegistryError):
                self._announce()
                self._announced_at = time.monotonic()

    def _announce(self) -> None:
        self._registry.workers.announce(
            self._identity.name,
            host=platform.node(),
            process_id=self._identity.process_id,
            queues=self._identity.queues,
            gpu=self._identity.gpu,
            state="draining" if self._draining() else "working",
        )


def this_worker(queues: Sequence[str]) -> WorkerIdentity:
    """The identity of this process, with the GPUs that its environment leaves visible."""
    gpu = ",".join(visible_gpus(os.environ)) or None
    return WorkerIdentity(name=owner_name(), process_id=os.getpid(), queues=tuple(queues), gpu=gpu)
