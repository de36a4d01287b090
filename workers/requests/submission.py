"""From a request to a queued job; an equal request gives the job that is there."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.entities import Job
from registry.errors import Conflict
from registry.files.json_text import digest_of
from registry.service import Registry
from workers.errors import JobCancelled, JobFailed
from workers.requests.placement import Placement, default_queue, is_served
from workers.requests.specs import Spec, processes_of
from workers.tracking.sources import Source


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """The job that answers a request: a new one, or that of an equal request before."""

    job: Job
    #: What of the placement does not hold, for the job was there already: field -> what holds instead.
    ignored: Mapping[str, str] = field(default_factory=dict)


def submit(
    registry: Registry,
    spec: Spec,
    *,
    force: bool = False,
    placement: Placement | None = None,
    source: Source | None = None,
) -> Submitted:
    """Queue a job; an equal one that has succeeded, runs or waits is given back instead, unless `force`.

    A failed or cancelled one is queued again: its checkpoints are still there.
    """
    asked = spec.to_json()
    digest = digest_of(asked)
    placed = placement or Placement()
    if not force and (known := registry.jobs.newest(spec.kind, digest)) is not None:
        job = _asked_again(registry, known, placed)
        return Submitted(job=job, ignored={} if job.state == "succeeded" else _ignored(placed, known, job))
    job = registry.jobs.submit(
        spec.kind,
        asked,
        # Of two that ask for the same at once, only one makes a job.
        idempotency_key=None if force else f"{spec.kind} {digest}",
        queue=placed.queue or default_queue(registry),
        priority=placed.priority or 0,
        deadline_s=placed.deadline_s,
        processes=processes_of(asked),
        source=(source or Source.here(None)).to_json(),
    )
    return Submitted(job=job)


def waits_for_a_worker(registry: Registry, job: Job) -> bool:
    """Whether the job is queued and no worker that takes such jobs was seen recently."""
    return job.state == "queued" and not is_served(registry, job.queue, processes=processes_of(job.spec))


def require_success(job: Job) -> Job:
    """The job, if it succeeded.

    Raises:
        JobFailed, JobCancelled: it did not.
    """
    if job.state == "cancelled":
        raise JobCancelled(job.id, message=job.message or "no message")
    if job.state != "succeeded":
        raise JobFailed(job.id, reason=job.reason or "unknown", message=job.message or "no message")
    return job


def _asked_again(registry: Registry, known: Job, placed: Placement) -> Job:
    if known.state not in ("failed", "cancelled"):
        return known
    try:
        return registry.jobs.retry(known.id, deadline_s=placed.deadline_s)
    except Conflict:  # another process asked at the same time
        return registry.jobs.get(known.id)


def _ignored(placed: Placement, known: Job, job: Job) -> dict[str, str]:
    is_under_way = known.state in ("queued", "running")
    deadline = f"ends {job.deadline_at:%Y-%m-%d %H:%M} UTC" if job.deadline_at else "has no deadline"
    holds = {
        "queue": (placed.queue not in (None, job.queue), f"is on {job.queue}"),
        "priority": (placed.priority not in (None, job.priority), f"has {job.priority}"),
        "deadline": (placed.deadline_s is not None and is_under_way, deadline),
    }
    return {name: instead for name, (is_ignored, instead) in holds.items() if is_ignored}
