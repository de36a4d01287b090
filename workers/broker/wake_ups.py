"""The Celery application: its one task, a wake-up message, and what the worker's main process runs beside it.

The pool's child process claims a job from the database and supervises the job process; the main process
announces the worker, reconciles, and relays. Neither ever imports torch.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from celery import Celery, bootsteps, signals

from registry.database.fork_gate import FORK_GATE
from registry.errors import SchemaMismatch
from registry.service import Registry
from registry.settings import Settings
from workers.attempts.supervisor import Interruption
from workers.broker.celery_settings import celery_settings
from workers.broker.fallback import PATIENCE_S, Fallback
from workers.broker.relay import WAKE_UP, Relay
from workers.broker.slot import forget_slot, slot_of
from workers.errors import BrokerUnusable, GpuBusy
from workers.processes.gpus import serve_gpus
from workers.processes.owner import owner_name
from workers.worker.identity import Upkeep, WorkerIdentity, this_worker
from workers.worker.idle_shipping import IdleShipping
from workers.worker.taking import take_next

_log = logging.getLogger(__name__)

#: The signal by which the main process tells its pool to drain; SIGTERM would kill an idle child.
_DRAIN = signal.SIGUSR2
_POOL = "prefork"


def make_app(
    settings: Settings, *, handlers: Mapping[str, str] | None = None, patience_s: float = PATIENCE_S
) -> Celery:
    """The Celery application of the configured broker.

    `patience_s`: how long an idle worker waits for a wake-up message before it polls the database itself.

    Raises:
        BrokerUnusable: no broker is configured.
    """
    if settings.broker_url is None:
        raise BrokerUnusable(
            "ZOO_BROKER_URL is not set, so there is no broker to connect to;"
            " set it, or start `zoo worker`, which takes jobs from the database"
        )
    app = Celery("zoo")
    app.conf.update(celery_settings(settings.broker_url))
    drains: list[int] = []
    main = _MainProcess(settings, handlers, patience_s)

    @app.task(name=WAKE_UP)  # type: ignore[untyped-decorator]  # Celery has no types
    def wake_up(queue: str) -> None:
        """Take the next job of the queue, if there is one."""
        interruption = Interruption(because="drained", count=lambda: len(drains))
        try:
            # If the slot is taken, nothing is lost: the relay sends another message while a job is claimable.
            with slot_of(os.getppid()) as is_free, Registry.open(settings) as registry:
                if is_free:
                    take_next(
                        registry,
                        queues=(queue,),
                        worker=owner_name(os.getppid()),
                        interruption=interruption,
                        handlers=handlers,
                        say=_log.info,
                    )
        except SchemaMismatch as mismatch:
            _log.error("%s", mismatch)
        except Exception:
            # A MemoryError that left a task would end the whole worker (celery/app/trace.py).
            _log.exception("a job was requeued")

    def prepare_child(**_: Any) -> None:
        signal.signal(_DRAIN, lambda number, _: drains.append(number))

    # Celery's signals hold weak references to their receivers by default.
    signals.celeryd_after_setup.connect(_refuse_other_pools, weak=False)
    signals.celeryd_after_setup.connect(_take_gpus, weak=False)
    signals.worker_process_init.connect(prepare_child, weak=False)
    signals.worker_shutting_down.connect(main.on_shutting_down, weak=False)
    signals.worker_shutdown.connect(main.on_shutdown, weak=False)
    app.steps["worker"].add(_step_of(main))
    return app


def _refuse_other_pools(instance: Any = None, **_: Any) -> None:
    """Exit if the command line names a pool that fails jobs on SIGQUIT (celery#10490)."""
    pool = instance.pool_cls.__module__.rpartition(".")[2]
    if pool != _POOL:
        # Celery logs any other exception of a receiver and continues.
        sys.exit(f"the pool {pool!r} cannot give a job back when the worker ends; leave --pool out")


def _take_gpus(instance: Any = None, **_: Any) -> None:
    """Lock the GPUs before the pool is forked, which inherits what stays visible; exit if one is taken."""
    try:
        serve_gpus(tuple(instance.app.amqp.queues.consume_from))
    except GpuBusy as busy:
        sys.stderr.write(f"error {busy.code}: {busy}\n")
        sys.exit(busy.exit_code)


def _step_of(main: "_MainProcess") -> type[bootsteps.StartStopStep]:
    """The step of a worker's start that starts `main`: after the pool, before the broker is connected to.

    Celery's signal `worker_ready` waits for the broker, which may be away for long
    (https://docs.celeryq.dev/en/stable/userguide/extending.html#worker-bootsteps).
    """

    class BesideThePool(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:
            main.start(parent.app)

    return BesideThePool


class _MainProcess:
    """What the worker's main process runs beside Celery's own work."""

    def __init__(self, settings: Settings, handlers: Mapping[str, str] | None, patience_s: float) -> None:
        self._settings = settings
        self._handlers = handlers
        self._patience_s = patience_s
        self._draining = threading.Event()
        self._stack = contextlib.ExitStack()

    def start(self, app: Celery) -> None:
        """Start the threads: the pool has started."""
        queues = tuple(sorted(app.amqp.queues.consume_from, reverse=True))
        identity = this_worker(queues)
        registry = self._stack.enter_context(Registry.open(self._settings))
        # Before any thread starts: a child that Celery forks beside them could hang, and hold its slot.
        FORK_GATE.guard_forks(registry.disconnect)
        self._stack.enter_context(Upkeep(registry, identity, draining=self._draining.is_set))
        self._stack.enter_context(IdleShipping(registry, identity))
        relay = Relay(registry, app, say=_log.warning)
        threading.Thread(target=relay.run, name="relay", daemon=True).start()
        self._stack.callback(relay.stop)
        fallback = Fallback(
            registry, identity, lambda: self._take(registry, identity), patience_s=self._patience_s
        )
        self._stack.callback(fallback.stop)
        _log.info("serves %s", identity.served)

    def _take(self, registry: Registry, identity: WorkerIdentity) -> bool:
        return take_next(
            registry,
            queues=identity.queues,
            worker=identity.name,
            interruption=Interruption(because="drained", count=lambda: int(self._draining.is_set())),
            handlers=self._handlers,
            say=_log.info,
        )

    def on_shutting_down(self, **_: Any) -> None:
        """Forward a shutdown request: running jobs save a checkpoint and are requeued."""
        from billiard.process import active_children

        self._draining.set()
        for child in active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, _DRAIN)

    def on_shutdown(self, **_: Any) -> None:
        """Stop the threads: the pool has ended."""
        self._draining.set()
        self._stack.close()
        forget_slot(os.getpid())
