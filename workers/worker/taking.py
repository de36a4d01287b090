"""Taking jobs from the database: one for each wake-up message, or in a loop without a broker; no torch."""

import os
import time
from collections.abc import Callable, Mapping, Sequence

from registry.entities import Job
from registry.errors import LeaseLost
from registry.service import Registry
from workers.attempts.runner import run_claimed
from workers.attempts.supervisor import Interruption
from workers.processes.gpus import visible_gpus
from workers.processes.owner import owner_name
from workers.worker.identity import WorkerIdentity

#: How often an idle worker without a broker polls the database.
POLL_EVERY_S = 0.5

#: Writes a line to the worker's log.
Say = Callable[[str], None]


def take_next(
    registry: Registry,
    *,
    queues: Sequence[str],
    worker: str,
    interruption: Interruption,
    handlers: Mapping[str, str] | None,
    say: Say,
) -> bool:
    """Claim the next queued job and run one attempt; False if no job is queued, or the worker shuts down."""
    if interruption.count():
        return False
    lease_s = registry.settings.lease_s
    job = registry.jobs.claim_next(
        owner=owner_name(),
        worker=worker,
        lease_s=lease_s,
        queues=queues,
        # Without GPUs, any number of processes may share the CPUs.
        most_processes=len(visible_gpus(os.environ)) or None,
    )
    if job is None:
        return False
    say(f"job {job.id} ({job.kind}): attempt {job.attempt} of {job.max_attempts}")
    started = time.monotonic()
    try:
        ended = run_claimed(registry, job, interruption=interruption, handlers=handlers, lease_s=lease_s)
    except LeaseLost as lost:
        say(f"job {job.id}: {lost}")
    else:
        say(f"job {job.id}: {_ending(ended)} after {time.monotonic() - started:.1f} s")
    return True


def take_all(
    registry: Registry,
    identity: WorkerIdentity,
    *,
    interruption: Interruption,
    handlers: Mapping[str, str] | None,
    say: Say,
) -> None:
    """Run job after job until the worker shuts down; while the database does not answer, retry."""
    last_error = None
    while not interruption.count():
        try:
            took = take_next(
                registry,
                queues=identity.queues,
                worker=identity.name,
                interruption=interruption,
                handlers=handlers,
                say=say,
            )
        except Exception as error:  # the job was requeued; one that breaks every worker has a budget
            message = f"{type(error).__name__}: {error}"
            if message != last_error:
                say(message)
            last_error = message
            took = False
        else:
            last_error = None
        if not took and not interruption.count():
            # A signal does not interrupt the sleep; the loop checks the count afterwards.
            time.sleep(POLL_EVERY_S)


def _ending(job: Job) -> str:
    if job.state == "queued":
        return f"requeued ({job.message})"
    return job.state if job.reason in ("ok", "cancelled") else f"{job.state} ({job.reason}: {job.message})"
