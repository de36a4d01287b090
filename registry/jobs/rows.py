"""Job rows inside the caller's transaction: a state changes only together with an event in the journal."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from registry.database.insertion import insert_or_ignore
from registry.entities import Job, JobEvent
from registry.errors import JobNotFound, LeaseLost
from registry.jobs import rules as job_rules
from registry.jobs.models import JobEventRow, JobRow
from registry.jobs.states import TRANSITIONS


def insert(
    session: Session, columns: Mapping[str, Any], *, source: Mapping[str, str] | None = None
) -> JobRow | None:
    """Add a queued job; None, without a change, if another job has its idempotency key.

    `source`, what asked for it, is kept in its journal.
    """
    row_id = session.scalar(
        insert_or_ignore(session, JobRow, columns, unique=("idempotency_key",)).returning(JobRow.id)
    )
    if row_id is None:
        return None
    row = find(session, row_id)
    append_event(session, row, kind="submitted", payload={"queue": row.queue, **(source or {})})
    return row


def find(session: Session, job_id: int, *, lock: bool = False) -> JobRow:
    """The row as it is now; JobNotFound if it does not exist."""
    row = session.get(JobRow, job_id, populate_existing=True, with_for_update=lock or None)
    if row is None:
        raise JobNotFound(job_id)
    return row


def hold(session: Session, job_id: int, *, fence: int) -> None:
    """Keep the job from being claimed until the transaction ends; LeaseLost if it has another fence."""
    wanted = select(JobRow.id).where(job_rules.held(job_id, fence)).with_for_update()
    if session.scalar(wanted) is None:
        raise LeaseLost(job_id, fence=fence)


def change(session: Session, where: ColumnElement[bool], values: Mapping[str, Any]) -> JobRow | None:
    """Update the one row that meets the condition; the row afterwards, None if no row does."""
    changed = update(JobRow).where(where).values(**values).returning(JobRow)
    return session.scalars(
        changed, execution_options={"synchronize_session": False, "populate_existing": True}
    ).one_or_none()


def transition(
    session: Session,
    where: ColumnElement[bool],
    values: Mapping[str, Any],
    *,
    event: str,
    payload: Mapping[str, Any] | None = None,
) -> JobRow | None:
    """Apply an event to the one row that meets the condition, and record it; None if no row does.

    The table of transitions decides from which states the event may happen, and to which it leads.
    """
    step = TRANSITIONS[event]
    allowed = where & JobRow.state.in_(step.sources)
    row = change(session, allowed, {**values, "state": step.target})
    if row is not None:
        append_event(session, row, kind=event, payload=payload or {})
    return row


def claim(session: Session, job_id: int, *, owner: str, worker: str | None, lease_s: float) -> JobRow | None:
    """Claim the job if it is claimable: the one compare-and-set that everything else rests on."""
    free = (JobRow.id == job_id) & job_rules.claimable()
    values = job_rules.claimed(owner=owner, worker=worker, lease_s=lease_s)
    return transition(session, free, values, event="claimed", payload={"owner": owner})


def append_event(session: Session, row: JobRow, *, kind: str, payload: Mapping[str, Any]) -> None:
    """Add an event to the journal; the counter in the job's row numbers events that are written at once."""
    counted = update(JobRow).where(JobRow.id == row.id).values(event_count=JobRow.event_count + 1)
    sequence = session.scalar(
        counted.returning(JobRow.event_count), execution_options={"synchronize_session": False}
    )
    session.add(
        JobEventRow(job_id=row.id, sequence=sequence, fence=row.fence, kind=kind, payload=dict(payload))
    )
    session.flush()


def as_job(row: JobRow) -> Job:
    """The row as a record."""
    return Job(**{name: getattr(row, name) for name in Job.__dataclass_fields__})


def as_event(row: JobEventRow) -> JobEvent:
    """The row as a record."""
    return JobEvent(**{name: getattr(row, name) for name in JobEvent.__dataclass_fields__})
