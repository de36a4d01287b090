"""A worker from its start to its end, fed by the database alone."""

import signal
from collections.abc import Callable, Mapping, Sequence

from registry.service import Registry
from registry.settings import Settings
from workers.attempts.supervisor import Interruption, interrupts_counted
from workers.processes.gpus import serve_gpus
from workers.worker.identity import Upkeep, describe, service_here
from workers.worker.idle_shipping import IdleShipping
from workers.worker.taking import take_all


def serve_from_database(
    settings: Settings,
    queues: Sequence[str],
    *,
    say: Callable[[str], None],
    handlers: Mapping[str, str] | None = None,
) -> None:
    """Take jobs from the database until SIGTERM, SIGQUIT or Ctrl-C; the job that runs then is given back.

    Raises:
        GpuBusy: another worker serves a GPU of this one.
    """
    serve_gpus(queues)
    # SIGQUIT is ignored, not deadly, where a shell starts what it puts in the background: so it is said here.
    with Registry.open(settings) as registry, interrupts_counted(signal.SIGQUIT) as interrupts:
        service = service_here(queues)
        interruption = Interruption(because="drained", count=interrupts)
        with (
            Upkeep(registry, service, draining=lambda: interrupts() > 0),
            IdleShipping(registry, service),
        ):
            say(f"worker {service.process_id} serves {describe(service)} from the database")
            take_all(registry, service, interruption=interruption, handlers=handlers, say=say)
