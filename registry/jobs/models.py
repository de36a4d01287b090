"""Tables of jobs, their journals and workers; constraints keep a job from being in two states at once."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.database.table import Table
from registry.database.times import database_now
from registry.jobs.states import REASONS

_TERMINAL = "state IN ('succeeded', 'failed', 'cancelled')"


class JobRow(Table):
    """A unit of work; `fence` only grows, `attempt` may go back when an attempt is refunded."""

    __tablename__ = "job"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
        CheckConstraint("state <> 'running' OR owner IS NOT NULL", name="owner"),
        CheckConstraint(f"({_TERMINAL}) = (reason IS NOT NULL)", name="reason"),
        CheckConstraint(f"({_TERMINAL}) = (finished_at IS NOT NULL)", name="finished_at"),
        CheckConstraint("attempt >= 0 AND attempt <= max_attempts AND attempt <= fence", name="attempt"),
        CheckConstraint("max_attempts > 0", name="max_attempts"),
        CheckConstraint("lost_attempts >= 0 AND lost_attempts <= fence", name="lost_attempts"),
        CheckConstraint("memory_cuts >= 0 AND memory_cuts <= fence", name="memory_cuts"),
        CheckConstraint("processes > 0", name="processes"),
        CheckConstraint(f"reason IN ({', '.join(repr(reason) for reason in REASONS)})", name="known_reason"),
        Index(None, "state", "queue", "priority"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(insert_default="queued")
    reason: Mapped[str | None]
    message: Mapped[str | None] = mapped_column(Text)
    spec: Mapped[dict[str, Any]]
    spec_digest: Mapped[str] = mapped_column(index=True)
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    queue: Mapped[str]
    priority: Mapped[int]
    attempt: Mapped[int] = mapped_column(insert_default=0)
    max_attempts: Mapped[int]
    # Attempts that died with their worker or were taken from it.
    lost_attempts: Mapped[int] = mapped_column(insert_default=0)
    # Attempts that ran out of memory; each halves the micro-batch.
    memory_cuts: Mapped[int] = mapped_column(insert_default=0)
    # How many processes an attempt runs in, side by side.
    processes: Mapped[int] = mapped_column(insert_default=1)
    # What the last attempt computed in, e.g. "bfloat16"; None before it has begun to.
    compute_dtype: Mapped[str | None]
    fence: Mapped[int] = mapped_column(BigInteger, insert_default=0)
    owner: Mapped[str | None]
    # The worker whose process the owner is; None for a command that runs the job itself.
    worker: Mapped[str | None]
    cancel_requested: Mapped[bool] = mapped_column(insert_default=False)
    progress: Mapped[dict[str, Any]] = mapped_column(insert_default=dict)
    outcome: Mapped[dict[str, Any]] = mapped_column(insert_default=dict)
    log_path: Mapped[str | None]
    run_id: Mapped[str | None]
    event_count: Mapped[int] = mapped_column(insert_default=0)
    created_at: Mapped[datetime] = mapped_column(insert_default=database_now())
    # Not to be claimed before this time: the pause after a failed attempt.
    ready_at: Mapped[datetime | None]
    # After it, a running job is ended and a queued one is not started.
    deadline_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]


class JobEventRow(Table):
    """One event of a job's journal; rows are only added."""

    __tablename__ = "job_event"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(insert_default=database_now())
    fence: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]


class WorkerRow(Table):
    """A worker that announces itself at intervals; its row is deleted when it ends."""

    __tablename__ = "worker"
    __table_args__ = (CheckConstraint("state IN ('working', 'draining')", name="state"),)

    #: Named as owners of jobs are, so that others on its host can tell whether it is alive.
    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    process_id: Mapped[int]
    queues: Mapped[list[Any]]
    gpu: Mapped[str | None]
    state: Mapped[str] = mapped_column(insert_default="working")
    started_at: Mapped[datetime] = mapped_column(insert_default=database_now())
    seen_at: Mapped[datetime] = mapped_column(insert_default=database_now())
