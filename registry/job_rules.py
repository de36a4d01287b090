"""What makes a job claimable, held or lapsed, and what each change of state writes. Touches no database."""

from typing import Any

from sqlalchemy import ColumnElement, and_, false, or_

from registry.errors import InvalidField
from registry.job_models import JobRow
from registry.job_states import TERMINAL_STATES
from registry.references import checked_name
from registry.times import database_now


def held(job_id: int, fence: int) -> ColumnElement[bool]:
    """The job runs, and under this fence."""
    return and_(JobRow.id == job_id, JobRow.fence == fence, JobRow.state == "running")


def lapsed() -> ColumnElement[bool]:
    """The job runs by its state, but nobody has renewed its lease in time."""
    return and_(JobRow.state == "running", JobRow.lease_until < database_now())


def claimable() -> ColumnElement[bool]:
    """The job may be taken now."""
    ready = or_(JobRow.ready_at.is_(None), JobRow.ready_at <= database_now())
    return and_(
        JobRow.attempt < JobRow.max_attempts,
        JobRow.cancel_requested == false(),
        or_(and_(JobRow.state == "queued", ready), lapsed()),
    )


def spent() -> ColumnElement[bool]:
    """The job may not be claimed again: no attempt is left, or somebody asked it to end."""
    return or_(JobRow.attempt >= JobRow.max_attempts, JobRow.cancel_requested)


def ended(state: str, *, reason: str) -> dict[str, Any]:
    """Columns of a job that has ended."""
    return {"state": state, "reason": reason, "lease_until": None, "finished_at": database_now()}


def given_back(
    *, attempt: int, max_attempts: int, refund: bool, cancel_requested: bool, reason: str, delay_s: float
) -> dict[str, Any]:
    """Columns of a job whose attempt ended without a result: queued again, unless it may not be."""
    if cancel_requested:
        return ended("cancelled", reason="cancelled")
    if attempt >= max_attempts and not refund:
        return ended("failed", reason=reason)
    return {
        "state": "queued",
        "attempt": attempt - 1 if refund else attempt,
        "owner": None,
        "lease_until": None,
        "hinted_at": None,
        "ready_at": database_now(delay_s),
    }


def abandoned(*, attempt: int, cancel_requested: bool) -> dict[str, Any]:
    """Columns of a job whose last owner is gone and that may not be claimed again."""
    if cancel_requested:
        return ended("cancelled", reason="cancelled")
    message = f"its process ended without a word, for the last of {attempt} attempts; see the log"
    return {**ended("failed", reason="poison"), "message": message}


def started_over(*, max_attempts: int) -> dict[str, Any]:
    """Columns of a failed or cancelled job that somebody wants to run again."""
    return {
        "state": "queued",
        "reason": None,
        "message": None,
        "attempt": 0,
        "max_attempts": max_attempts,
        "owner": None,
        "cancel_requested": False,
        "finished_at": None,
        "ready_at": None,
        "hinted_at": None,
    }


def checked_kind(kind: str) -> str:
    """Return the kind if it follows the rule for names; InvalidName otherwise."""
    return checked_name(kind, kind="job kind")


def checked_attempts(max_attempts: int) -> int:
    """Return the number if it is at least 1; InvalidField otherwise."""
    if max_attempts < 1:
        raise InvalidField("max_attempts", allowed="at least 1", value=max_attempts)
    return max_attempts


def checked_terminal(state: str) -> str:
    """Return the state if a job can end in it; InvalidField otherwise."""
    if state not in TERMINAL_STATES:
        raise InvalidField("state", allowed=f"one of {', '.join(TERMINAL_STATES)}", value=state)
    return state
