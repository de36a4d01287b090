"""From a request to a queued job; an equal request gives the job that is there."""

from registry.entities import Job
from registry.errors import Conflict
from registry.files.json_text import digest_of
from registry.service import Registry
from workers.requests.placement import Placement
from workers.requests.specs import Spec, processes_of


def submit(registry: Registry, spec: Spec, *, force: bool = False, placement: Placement | None = None) -> Job:
    """Queue a job; an equal one that has succeeded, runs or waits is given back instead, unless `force`.

    A failed or cancelled one is queued again: its checkpoints are still there.
    """
    asked = spec.to_json()
    digest = digest_of(asked)
    placed = placement or Placement()
    if not force and (known := registry.jobs.newest(spec.kind, digest)) is not None:
        return _asked_again(registry, known, placed)
    return registry.jobs.submit(
        spec.kind,
        asked,
        # Of two that ask for the same at once, only one makes a job.
        idempotency_key=None if force else f"{spec.kind} {digest}",
        queue=placed.queue,
        priority=placed.priority,
        deadline_s=placed.deadline_s,
        processes=processes_of(asked),
    )


def _asked_again(registry: Registry, known: Job, placed: Placement) -> Job:
    if known.state not in ("failed", "cancelled"):
        return known
    try:
        return registry.jobs.retry(known.id, deadline_s=placed.deadline_s)
    except Conflict:  # somebody else asked at the same time
        return registry.jobs.get(known.id)
