"""Running a job from queued to ended: claim it, run it in a job process, record its end.

A command calls `run_here`; a worker claims jobs itself and calls `run_claimed`. Never imports torch.
"""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from registry.crash_points import crash_point
from registry.entities import Job
from registry.errors import DiskFull, LeaseLost, RegistryError, ServiceUnreachable
from registry.jobs.budgets import BUDGETS
from registry.service import Registry
from workers.attempts.heartbeat import Heartbeat
from workers.attempts.reconciler import reconcile
from workers.attempts.results import Result
from workers.attempts.supervisor import (
    Events,
    Interruption,
    Progress,
    interrupts_counted,
    order_for,
    supervise,
)
from workers.errors import JobNotClaimable
from workers.processes.job_log import JobLog
from workers.processes.owner import owner_name
from workers.tracking.ended_runs import RUN_STATUS
from workers.tracking.shipping import NO_TRACKING, NoShipper, Shipper
from workers.tracking.sources import Source
from workers.tracking.spool import Run

#: How long the end of a job waits for MLflow; what is not shipped by then stays in the spool.
SHIPPING_LIMIT_S = 30.0
_PAUSE_POLL_S = 0.2
_FINISH_POLL_S = 0.5


def job_folder(registry: Registry, job_id: int) -> Path:
    """The folder of a job's log, checkpoints, results and spool."""
    return registry.settings.home / "jobs" / str(job_id)


def run_here(
    registry: Registry,
    job_id: int,
    *,
    on_progress: Progress = lambda _: None,
    on_event: Events = lambda *_: None,
    handlers: Mapping[str, str] | None = None,
    lease_s: float | None = None,
) -> Job:
    """Claim a job and run it to its end in child processes, one for each attempt; the ended job.

    Ctrl-C asks the job to stop: it writes a checkpoint and becomes `cancelled`. A job whose owner on this
    host is dead is taken over at once.

    Raises:
        JobNotClaimable: it has ended, or another process runs it.
        LeaseLost: another process has claimed it meanwhile; this attempt's result is discarded.
    """
    while True:
        job = _claim(registry, job_id, lease_s=lease_s or registry.settings.lease_s)
        with interrupts_counted() as count:
            job = run_claimed(
                registry,
                job,
                interruption=Interruption(because="cancelled", count=count),
                on_progress=on_progress,
                on_event=on_event,
                handlers=handlers,
                lease_s=lease_s,
            )
        if job.state != "queued":
            return job
        on_event("another_attempt", {"reason": job.message})
        _wait_until_ready(registry, job)


def run_claimed(
    registry: Registry,
    job: Job,
    *,
    interruption: Interruption,
    on_progress: Progress = lambda _: None,
    on_event: Events = lambda *_: None,
    handlers: Mapping[str, str] | None = None,
    lease_s: float | None = None,
) -> Job:
    """Run one attempt of a claimed job; the job afterwards, "queued" if another attempt follows.

    Raises:
        LeaseLost: another process has claimed it meanwhile; this attempt's result is discarded.
    """
    crash_point("after_claim")
    folder = job_folder(registry, job.id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lease_s = lease_s or registry.settings.lease_s
    run = _begun_run(
        registry, job, folder
    )  # before the lease is renewed: a disk without room must not hold the job
    heartbeat = Heartbeat(registry.jobs, job, lease_s=lease_s)
    shipper = _shipper(registry, job, folder, on_event)
    order = order_for(job, folder, registry.settings, until=heartbeat.held_until, handlers=handlers)
    try:
        with JobLog(folder) as log:
            registry.jobs.set_log(job.id, str(log.path), job.fence)
            result = supervise(
                order,
                heartbeat,
                log,
                interruption=interruption,
                on_progress=on_progress,
                on_event=on_event,
            )
            with contextlib.suppress(OSError):  # a full disk: the next shipper writes the end
                run.end(RUN_STATUS[result.state])
            shipper.finish(timeout_s=SHIPPING_LIMIT_S)
            return _conclude(registry, job, result, heartbeat)
    except BaseException as error:
        _requeue(registry, job, error)
        raise
    finally:
        shipper.abandon()
        heartbeat.stop()
        run.close()


def _claim(registry: Registry, job_id: int, *, lease_s: float) -> Job:
    job = registry.jobs.claim(job_id, owner=owner_name(), lease_s=lease_s)
    if job is None:
        # Frees the job if its owner is dead, and ends it if it was lost too often.
        reconcile(registry)
        job = registry.jobs.claim(job_id, owner=owner_name(), lease_s=lease_s)
    if job is None:
        raise JobNotClaimable(job_id, state=registry.jobs.get(job_id).state)
    return job


def _wait_until_ready(registry: Registry, job: Job) -> None:
    """Wait for the pause before the next attempt to end, or for the job's state to change."""
    while registry.jobs.get(job.id).state == "queued" and not registry.jobs.is_claimable(job.id):
        time.sleep(_PAUSE_POLL_S)


def _begun_run(registry: Registry, job: Job, folder: Path) -> Run:
    submitted = next(iter(registry.jobs.events(job.id)), None)
    source = Source.from_json({} if submitted is None else submitted.payload)
    run = Run(folder)
    run.begin(
        experiment=f"zoo/{job.kind}",
        name="-".join(str(part) for part in (job.kind, job.id, job.spec.get("name")) if part),
        parameters=job.spec,
        tags={"zoo.job": job.id, "zoo.kind": job.kind, "zoo.attempt": job.attempt, **source.tags},
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


def _requeue(registry: Registry, job: Job, error: BaseException) -> None:
    """Queue the job again, with its checkpoints, because it was not the job that failed."""
    with contextlib.suppress(RegistryError):
        registry.jobs.requeue(job.id, fence=job.fence, reason="infra", message=repr(error))


def _conclude(registry: Registry, job: Job, result: Result, heartbeat: Heartbeat) -> Job:
    """Record the end of the attempt; retried while the database does not answer and the lease holds.

    Raises:
        LeaseLost: the fence is no longer ours, or the database did not answer before the lease ended.
    """
    crash_point("before_finish")
    while not heartbeat.lost.is_set():
        try:
            if not _written(registry, job, result):
                break
            crash_point("after_finish")
            return registry.jobs.get(job.id)
        except (ServiceUnreachable, DiskFull):
            heartbeat.lost.wait(_FINISH_POLL_S)
    raise LeaseLost(job.id, fence=job.fence)


def _written(registry: Registry, job: Job, result: Result) -> bool:
    if result.state == "queued" or result.reason in BUDGETS:
        state = registry.jobs.requeue(
            job.id,
            fence=job.fence,
            reason=result.reason,
            message=result.message,
            refund=result.state == "queued",
        )
        return state is not None
    return registry.jobs.finish(
        job.id,
        fence=job.fence,
        state=result.state,
        reason=result.reason,
        message=result.message,
        outcome=result.outcome,
    )
