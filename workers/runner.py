"""From a request to a job that has ended: submit it, claim it, run it in a trainer process, write its end.

The embedded default calls `run_here` under the command; a queue's worker calls it, or `run_claimed`, the same
way. Never imports torch.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from registry.entities import Job
from registry.errors import LeaseLost, RegistryError
from registry.json_text import digest_of
from registry.service import Registry
from workers.errors import JobNotClaimable
from workers.heartbeat import Heartbeat
from workers.job_log import JobLog
from workers.owner import is_dead, owner_name
from workers.results import Result
from workers.shipping import NO_TRACKING, NoShipper, Shipper
from workers.specs import Spec
from workers.spool import Run
from workers.supervisor import Progress, interrupts_counted, order_for, supervise

LEASE_S = 60.0
#: MLflow may take so long for the last of a run; what it has not taken stays in the spool.
SHIPPING_LIMIT_S = 30.0

#: Receives what happens besides progress: its kind, and what is known of it.
Events = Callable[[str, Mapping[str, Any]], None]

_RUN_STATUS = {"succeeded": "FINISHED", "cancelled": "KILLED"}


def submit(registry: Registry, spec: Spec, *, force: bool = False) -> Job:
    """Queue a job; an equal one that has succeeded, runs or waits is given back instead, unless `force`.

    A failed or cancelled one is queued again: its checkpoints are still there.
    """
    asked = spec.to_json()
    digest = digest_of(asked)
    for job in () if force else registry.jobs.list(limit=None):
        if (job.kind, job.spec_digest) == (spec.kind, digest):
            return registry.jobs.retry(job.id) if job.state in ("failed", "cancelled") else job
    return registry.jobs.submit(spec.kind, asked)


def job_folder(registry: Registry, job_id: int) -> Path:
    """Where a job keeps its log, checkpoints, results and spool."""
    return registry.settings.home / "jobs" / str(job_id)


def run_here(
    registry: Registry,
    job_id: int,
    *,
    on_progress: Progress = lambda _: None,
    on_event: Events = lambda *_: None,
    handlers: Mapping[str, str] | None = None,
    lease_s: float = LEASE_S,
    deadline_s: float | None = None,
) -> Job:
    """Claim a job and run it to its end in a child process; the job as it ended.

    Ctrl-C asks the job to end: it writes a checkpoint and becomes `cancelled`. A job whose owner on this host
    is dead is taken over at once.

    Raises:
        JobNotClaimable: it has ended, or somebody else runs it.
        LeaseLost: it was given to somebody else meanwhile; what this attempt did is discarded.
    """
    job = _claim(registry, job_id, lease_s=lease_s)
    return run_claimed(
        registry,
        job,
        on_progress=on_progress,
        on_event=on_event,
        handlers=handlers,
        lease_s=lease_s,
        deadline_s=deadline_s,
    )


def run_claimed(
    registry: Registry,
    job: Job,
    *,
    on_progress: Progress = lambda _: None,
    on_event: Events = lambda *_: None,
    handlers: Mapping[str, str] | None = None,
    lease_s: float = LEASE_S,
    deadline_s: float | None = None,
) -> Job:
    """Run a job that is claimed already; see `run_here`."""
    folder = job_folder(registry, job.id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    heartbeat = Heartbeat(registry.jobs, job, lease_s=lease_s)
    run = _begun_run(job, folder)
    shipper = _shipper(registry, job, folder, on_event)
    order = order_for(job, folder, registry.settings, lease_s=lease_s, handlers=handlers)
    deadline = None if deadline_s is None else time.monotonic() + deadline_s
    try:
        with interrupts_counted() as interrupts, JobLog(folder) as log:
            registry.jobs.set_log(job.id, str(log.path), job.fence)
            result = supervise(
                order, heartbeat, log, interrupts=interrupts, deadline=deadline, on_progress=on_progress
            )
            run.end(_RUN_STATUS.get(result.state, "FAILED"))
            shipper.finish(timeout_s=SHIPPING_LIMIT_S)
            return _finish(registry, job, result)
    except BaseException as error:
        _give_back(registry, job, error)
        raise
    finally:
        shipper.abandon()
        heartbeat.stop()
        run.close()


def _claim(registry: Registry, job_id: int, *, lease_s: float) -> Job:
    job = registry.jobs.claim(job_id, owner=owner_name(), lease_s=lease_s)
    if job is None:
        held = registry.jobs.get(job_id)
        if held.state == "running" and is_dead(held.owner):
            registry.jobs.expire(job_id, fence=held.fence)
            job = registry.jobs.claim(job_id, owner=owner_name(), lease_s=lease_s)
            # A job that killed its process on every attempt ends here.
            registry.jobs.sweep()
    if job is None:
        raise JobNotClaimable(job_id, state=registry.jobs.get(job_id).state)
    return job


def _begun_run(job: Job, folder: Path) -> Run:
    run = Run(folder)
    run.begin(
        experiment=f"zoo/{job.kind}",
        name="-".join(str(part) for part in (job.kind, job.id, job.spec.get("name")) if part),
        parameters=job.spec,
        tags={"zoo.job": job.id, "zoo.kind": job.kind, "zoo.attempt": job.attempt},
    )
    return run


def _shipper(registry: Registry, job: Job, folder: Path, on_event: Events) -> Shipper | NoShipper:
    if registry.settings.mlflow_tracking_uri == NO_TRACKING:
        return NoShipper()
    complaints: list[str] = []

    def on_run(run_id: str) -> None:
        with contextlib.suppress(RegistryError):
            registry.jobs.set_run(job.id, run_id, job.fence)

    def on_unavailable(reason: str) -> None:
        if complaints:
            return
        complaints.append(reason)
        on_event("tracking_unavailable", {"reason": reason})
        with contextlib.suppress(RegistryError):
            registry.jobs.add_event(job.id, "tracking_unavailable", {"reason": reason}, fence=job.fence)

    return Shipper(registry.settings, [folder], on_run=on_run, on_unavailable=on_unavailable)


def _give_back(registry: Registry, job: Job, error: BaseException) -> None:
    """Queue the job again, its attempt refunded: nothing is known against it, its checkpoints are kept."""
    with contextlib.suppress(RegistryError):
        registry.jobs.requeue(job.id, fence=job.fence, reason="infra", message=repr(error), refund=True)


def _finish(registry: Registry, job: Job, result: Result) -> Job:
    ended = registry.jobs.finish(
        job.id,
        fence=job.fence,
        state=result.state,
        reason=result.reason,
        message=result.message,
        outcome=result.outcome,
    )
    if not ended:
        raise LeaseLost(job.id, fence=job.fence)
    return registry.jobs.get(job.id)
