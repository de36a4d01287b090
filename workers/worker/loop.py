"""A worker from start to end that polls the database, without a broker."""

import signal
from collections.abc import Callable, Mapping, Sequence

from registry.service import Registry
from registry.settings import Settings
from workers.attempts.supervisor import Interruption, interrupts_counted
from workers.processes.gpus import serve_gpus
from workers.worker.identity import Upkeep, this_worker
from workers.worker.idle_shipping import IdleShipping
from workers.worker.taking import take_all


def serve_from_database(
    settings: Settings,
    queues: Sequence[str],
    *,
    say: Callable[[str], None],
    handlers: Mapping[str, str] | None = None,
) -> None:
    """Take jobs from the database until SIGTERM, SIGQUIT or Ctrl-C; the job that runs then is requeued.

    Raises:
        GpuBusy: another worker serves one of the GPUs.
    """
    serve_gpus(queues)
    # A shell starts background processes with SIGQUIT ignored, so it is named here.
    with Registry.open(settings) as registry, interrupts_counted(signal.SIGQUIT) as interrupts:
        identity = this_worker(queues)
        interruption = Interruption(because="drained", count=interrupts)
        with (
            Upkeep(registry, identity, draining=lambda: interrupts() > 0),
            IdleShipping(registry, identity),
        ):
            say(f"worker {identity.process_id} serves {identity.served} from the database")
            take_all(registry, identity, interruption=interruption, handlers=handlers, say=say)
