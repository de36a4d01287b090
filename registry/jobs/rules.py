"""When a job is claimable, held or lapsed, and the columns that each transition writes. Runs no statement."""

from typing import Any

from sqlalchemy import ColumnElement, and_, case, false, func, or_, true

from registry.database.times import database_now
from registry.errors import InvalidField
from registry.jobs.budgets import LOST_ATTEMPTS_ALLOWED, AttemptCounters, retry_decision
from registry.jobs.models import JobRow
from registry.jobs.states import REASONS, TERMINAL_STATES
from registry.references import checked_name


def held(job_id: int, fence: int) -> ColumnElement[bool]:
    """The job runs under this fence."""
    return and_(JobRow.id == job_id, JobRow.fence == fence, JobRow.state == "running")


def lapsed() -> ColumnElement[bool]:
    """The job's state is running, but its lease was not renewed in time."""
    return and_(JobRow.state == "running", JobRow.lease_until < database_now())


def overdue() -> ColumnElement[bool]:
    """The job's deadline has passed."""
    return and_(JobRow.deadline_at.is_not(None), JobRow.deadline_at <= database_now())


def claimable() -> ColumnElement[bool]:
    """The job may be claimed now."""
    ready = or_(JobRow.ready_at.is_(None), JobRow.ready_at <= database_now())
    in_time = or_(JobRow.deadline_at.is_(None), JobRow.deadline_at > database_now())
    return and_(
        JobRow.cancel_requested == false(),
        in_time,
        or_(
            and_(JobRow.state == "queued", ready, JobRow.attempt < JobRow.max_attempts),
            and_(lapsed(), JobRow.lost_attempts < LOST_ATTEMPTS_ALLOWED),
        ),
    )


def wants_at_most(processes: int | None) -> ColumnElement[bool]:
    """The job asks for at most this many processes; None allows any number."""
    return true() if processes is None else JobRow.processes <= processes


def spent() -> ColumnElement[bool]:
    """The job does not run and may not be claimed: lost too often, cancelled, or past its deadline."""
    is_lost_too_often = JobRow.lost_attempts >= LOST_ATTEMPTS_ALLOWED
    return or_(
        and_(JobRow.state == "queued", overdue()),
        and_(lapsed(), or_(is_lost_too_often, JobRow.cancel_requested, overdue())),
    )


def claimed(*, owner: str, worker: str | None, lease_s: float) -> dict[str, Any]:
    """Columns of a job that is claimed: the attempt is counted before any code runs.

    Taking over a job whose owner is gone counts as a lost attempt, which is repeated.
    """
    was_queued = JobRow.state == "queued"
    return {
        "owner": owner,
        "worker": worker,
        "fence": JobRow.fence + 1,
        "attempt": case((was_queued, JobRow.attempt + 1), else_=JobRow.attempt),
        "lost_attempts": case((was_queued, JobRow.lost_attempts), else_=JobRow.lost_attempts + 1),
        "lease_until": database_now(lease_s),
        "started_at": func.coalesce(JobRow.started_at, database_now()),
        "message": None,
    }


def ended(*, reason: str) -> dict[str, Any]:
    """Columns of a job that has ended."""
    return {"reason": reason, "lease_until": None, "finished_at": database_now()}


def after_attempt(
    counters: AttemptCounters, *, reason: str, refund: bool, cancel_requested: bool
) -> tuple[str, dict[str, Any]]:
    """Event and columns of a job whose attempt ended without a result."""
    decision = retry_decision(counters, None if refund else reason)
    if cancel_requested:
        return "cancelled", ended(reason="cancelled")
    if not decision.retry:
        return "failed", ended(reason=reason)
    return "queued", {
        **decision.counters,
        "owner": None,
        "worker": None,
        "lease_until": None,
        "ready_at": database_now(decision.pause_s),
    }


def abandoned(*, lost_attempts: int, cancel_requested: bool, is_overdue: bool) -> tuple[str, dict[str, Any]]:
    """Event and columns of a job that does not run and may not be claimed again."""
    if cancel_requested:
        return "cancelled", ended(reason="cancelled")
    if is_overdue:
        message = "its deadline passed while it was not running"
        return "failed", {**ended(reason="deadline"), "message": message}
    message = f"its worker died {lost_attempts + 1} times; see the log"
    return "failed", {**ended(reason="poison"), "message": message}


def started_over(*, max_attempts: int, deadline_s: float | None) -> dict[str, Any]:
    """Columns of a failed or cancelled job that is retried, with all its budgets restored."""
    return {
        "reason": None,
        "message": None,
        "attempt": 0,
        "lost_attempts": 0,
        "memory_cuts": 0,
        "max_attempts": max_attempts,
        "owner": None,
        "worker": None,
        "cancel_requested": False,
        "finished_at": None,
        "ready_at": None,
        "deadline_at": deadline(deadline_s),
    }


def deadline(deadline_s: float | None) -> Any:
    """The time `deadline_s` seconds from now, by the database's clock; InvalidField unless above 0."""
    if deadline_s is None:
        return None
    if not deadline_s > 0:
        raise InvalidField("deadline", allowed="above 0 seconds", value=deadline_s)
    return database_now(deadline_s)


def counters_of(row: JobRow) -> AttemptCounters:
    """The counters of the job's row."""
    return AttemptCounters(
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        lost_attempts=row.lost_attempts,
        memory_cuts=row.memory_cuts,
    )


def checked_kind(kind: str) -> str:
    """Return the kind if it follows the rule for names; InvalidName otherwise."""
    return checked_name(kind, kind="job kind")


def checked_attempts(max_attempts: int) -> int:
    """Return the number if it is at least 1; InvalidField otherwise."""
    if max_attempts < 1:
        raise InvalidField("max_attempts", allowed="at least 1", value=max_attempts)
    return max_attempts


def checked_processes(processes: int) -> int:
    """Return the number if it is at least 1; InvalidField otherwise."""
    if processes < 1:
        raise InvalidField("processes", allowed="at least 1", value=processes)
    return processes


def checked_terminal(state: str) -> str:
    """Return the state if a job can end in it; InvalidField otherwise."""
    if state not in TERMINAL_STATES:
        raise InvalidField("state", allowed=f"one of {', '.join(TERMINAL_STATES)}", value=state)
    return state


def checked_reason(reason: str) -> str:
    """Return the reason if a job can end for it; InvalidField otherwise."""
    if reason not in REASONS:
        raise InvalidField("reason", allowed=f"one of {', '.join(REASONS)}", value=reason)
    return reason
