"""Taking jobs from the database: one on a hint, or one after the other without a broker; no torch here."""

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
from workers.worker.identity import Service

#: How often an idle worker without a broker looks.
POLL_EVERY_S = 0.5

#: Receives a line for the worker's log.
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
    """Claim the next free job and run one attempt of it; False if there is none, or the worker is to end."""
    if interruption.count():
        return False
    lease_s = registry.settings.lease_s
    job = registry.jobs.claim_next(
        owner=owner_name(),
        worker=worker,
        lease_s=lease_s,
        queues=queues,
        # Without GPUs, processes share the processors, however many there are.
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
        say(f"job {job.id}: {_said(ended)} after {time.monotonic() - started:.1f} s")
    return True


def take_all(
    registry: Registry,
    service: Service,
    *,
    interruption: Interruption,
    handlers: Mapping[str, str] | None,
    say: Say,
) -> None:
    """Run job after job until the worker is told to end; a database that is away is waited for."""
    complaint = None
    while not interruption.count():
        try:
            took = take_next(
                registry,
                queues=service.queues,
                worker=service.name,
                interruption=interruption,
                handlers=handlers,
                say=say,
            )
        except Exception as error:  # the job was given back; one that breaks every worker has a budget
            complaint = _said_once(f"{type(error).__name__}: {error}", before=complaint, say=say)
            took = False
        else:
            complaint = None
        if not took and not interruption.count():
            # A signal cuts this short only by what it noted: the loop looks at it next.
            time.sleep(POLL_EVERY_S)


def _said_once(complaint: str, *, before: str | None, say: Say) -> str:
    if complaint != before:
        say(complaint)
    return complaint


def _said(job: Job) -> str:
    if job.state == "queued":
        return f"given back ({job.message})"
    return job.state if job.reason in ("ok", "cancelled") else f"{job.state} ({job.reason}: {job.message})"
