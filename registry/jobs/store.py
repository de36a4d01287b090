"""The store of jobs: claims, and writes that hold only under a job's fence. Runs nothing, knows no broker.

A claim raises the job's fence and counts the attempt before any code runs. Every later write names its fence
and changes nothing once another claim has raised it. So a job may be started more than once, but takes effect
once. Leases are measured by the database's clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update

from registry.database.database import Database
from registry.database.schema import ensure_same
from registry.database.times import database_now
from registry.entities import BeatAnswer, Job, JobEvent
from registry.errors import Conflict, KeyReused
from registry.files.json_text import digest_of, storable_text
from registry.jobs import rows as job_rows
from registry.jobs import rules as job_rules
from registry.jobs.models import JobEventRow, JobRow


class JobStore:
    """Every change of a job's state, each in a transaction of its own."""

    def __init__(self, database: Database, *, home: Path = Path()) -> None:
        self._database = database
        #: Log paths below it are stored relative to it, so that the folder can be moved.
        self._home = home

    def submit(
        self,
        kind: str,
        spec: Mapping[str, Any],
        *,
        queue: str = "cpu",
        priority: int = 0,
        max_attempts: int = 3,
        idempotency_key: str | None = None,
        deadline_s: float | None = None,
        processes: int = 1,
        source: Mapping[str, str] | None = None,
    ) -> Job:
        """Queue a job; the same idempotency key with the same request returns the first job.

        `deadline_s` seconds from now the job is ended, whether it runs then or is queued. `source`, what
        asked for it, is kept in its journal.

        Raises:
            KeyReused: the key was used before for another kind or spec.
        """
        columns = {
            "kind": job_rules.checked_kind(kind),
            "spec": dict(spec),
            "spec_digest": digest_of(dict(spec)),
            "queue": queue,
            "priority": priority,
            "max_attempts": job_rules.checked_attempts(max_attempts),
            "idempotency_key": idempotency_key,
            "deadline_at": job_rules.deadline(deadline_s),
            "processes": job_rules.checked_processes(processes),
        }
        with self._database.write() as session:
            row = job_rows.insert(session, columns, source=source)
            if row is not None:
                return self._as_job(row)
            known = session.scalars(select(JobRow).where(JobRow.idempotency_key == idempotency_key)).one()
            if (known.kind, known.spec_digest) == (columns["kind"], columns["spec_digest"]):
                return self._as_job(known)
            raise KeyReused(
                f"idempotency key {idempotency_key!r} belongs to job {known.id}, which is another request;"
                f" use another key, or see: zoo jobs show {known.id}"
            )

    def claim(self, job_id: int, *, owner: str, lease_s: float, worker: str | None = None) -> Job | None:
        """Claim the job; None if another process holds it, it has ended, or it may not be started again.

        Raises:
            SchemaMismatch: another release has changed the database.
        """
        with self._database.write() as session:
            ensure_same(session.connection())
            row = job_rows.claim(session, job_id, owner=owner, worker=worker, lease_s=lease_s)
            return None if row is None else self._as_job(row)

    def claim_next(
        self,
        *,
        owner: str,
        lease_s: float,
        queues: Sequence[str] = ("cpu",),
        worker: str | None = None,
        most_processes: int | None = None,
    ) -> Job | None:
        """Claim the claimable job of highest priority, oldest first; None if no job is claimable.

        Jobs that ask for more than `most_processes`, if given, are left for other workers.

        Raises:
            SchemaMismatch: another release has changed the database.
        """
        waiting = (
            select(JobRow.id)
            .where(job_rules.claimable(), JobRow.queue.in_(queues), job_rules.wants_at_most(most_processes))
            .order_by(JobRow.priority.desc(), JobRow.id)
            .limit(1)
        )
        # A read first, so that idle workers do not take SQLite's one write lock.
        with self._database.read() as session:
            if session.scalar(waiting) is None:
                return None
        with self._database.write() as session:
            ensure_same(session.connection())
            job_id = session.scalar(waiting.with_for_update(skip_locked=True))
            if job_id is None:
                return None
            row = job_rows.claim(session, job_id, owner=owner, worker=worker, lease_s=lease_s)
            return None if row is None else self._as_job(row)

    def beat(
        self, job_id: int, *, fence: int, lease_s: float, progress: Mapping[str, Any] | None = None
    ) -> BeatAnswer:
        """Renew the lease and store the progress; not `alive` once the fence is no longer the caller's."""
        values: dict[str, Any] = {"lease_until": database_now(lease_s)}
        if progress is not None:
            values["progress"] = dict(progress)
        renewed = update(JobRow).where(job_rules.held(job_id, fence)).values(**values)
        with self._database.write() as session:
            answer = session.execute(
                renewed.returning(JobRow.cancel_requested, job_rules.overdue()),
                execution_options={"synchronize_session": False},
            ).one_or_none()
        if answer is None:
            return BeatAnswer(alive=False, cancel_requested=False, overdue=False)
        return BeatAnswer(alive=True, cancel_requested=answer[0], overdue=bool(answer[1]))

    def finish(
        self,
        job_id: int,
        *,
        fence: int,
        state: str,
        reason: str,
        message: str | None = None,
        outcome: Mapping[str, Any] | None = None,
    ) -> bool:
        """End the job; False, without a change, if the fence is no longer the caller's."""
        values = {
            **job_rules.ended(reason=job_rules.checked_reason(reason)),
            "message": _storable(message),
            "outcome": dict(outcome or {}),
        }
        event = job_rules.checked_terminal(state)
        with self._database.write() as session:
            row = job_rows.transition(
                session, job_rules.held(job_id, fence), values, event=event, payload={"reason": reason}
            )
            return row is not None

    def requeue(
        self, job_id: int, *, fence: int, reason: str, message: str | None = None, refund: bool = False
    ) -> str | None:
        """Record an attempt that ended without a result; the new state, None if the fence is an old one.

        The reason's budget decides: "queued" for another attempt, "failed" if none is left or the reason has
        no budget; "cancelled" if that was requested. `refund` does not count the attempt, for an end that the
        job did not cause, such as a worker that shuts down.
        """
        held = job_rules.held(job_id, fence)
        with self._database.write() as session:
            row = session.scalar(select(JobRow).where(held).with_for_update())
            if row is None:
                return None
            event, values = job_rules.after_attempt(
                job_rules.counters_of(row),
                reason=reason if refund else job_rules.checked_reason(reason),
                refund=refund,
                cancel_requested=row.cancel_requested,
            )
            values["message"] = _storable(message)
            changed = job_rows.transition(session, held, values, event=event, payload={"reason": reason})
            return None if changed is None else changed.state

    def request_cancel(self, job_id: int) -> Job:
        """Cancel a job: at once if it does not run, otherwise its worker is asked to. An ended job stays.

        Raises:
            JobNotFound: there is no such job.
        """
        free = and_(JobRow.id == job_id, or_(JobRow.state == "queued", job_rules.lapsed()))
        running = and_(JobRow.id == job_id, JobRow.state == "running")
        asked = {"cancel_requested": True}
        ended = job_rules.ended(reason="cancelled")
        with self._database.write() as session:
            if job_rows.transition(session, free, {**asked, **ended}, event="cancelled") is None:
                job_rows.transition(session, running, asked, event="cancel_requested")
            return self._as_job(job_rows.find(session, job_id))

    def retry(self, job_id: int, *, max_attempts: int | None = None, deadline_s: float | None = None) -> Job:
        """Queue a failed or cancelled job again, with all its attempts, and a new deadline or none.

        Raises:
            JobNotFound: there is no such job.
            Conflict: it has not failed and was not cancelled.
        """
        with self._database.write() as session:
            row = job_rows.find(session, job_id, lock=True)
            if row.state not in ("failed", "cancelled"):
                raise Conflict(
                    f"job {job_id} is {row.state}; only a failed or cancelled job can be tried again;"
                    f" see: zoo jobs show {job_id}"
                )
            attempts = row.max_attempts if max_attempts is None else job_rules.checked_attempts(max_attempts)
            values = job_rules.started_over(max_attempts=attempts, deadline_s=deadline_s)
            job_rows.transition(session, JobRow.id == job_id, values, event="retried")
            return self._as_job(row)

    def expire(self, job_id: int, *, fence: int) -> bool:
        """End the lease of a dead owner, so that the job need not wait until it expires."""
        values = {"lease_until": database_now(-1.0)}
        with self._database.write() as session:
            row = job_rows.transition(session, job_rules.held(job_id, fence), values, event="expired")
            return row is not None

    def sweep(self) -> tuple[int, ...]:
        """End the jobs that do not run and may not be claimed again; their numbers."""
        lost = select(JobRow, job_rules.overdue()).where(job_rules.spent())
        with self._database.read() as session:
            if session.execute(lost.limit(1)).first() is None:
                return ()
        with self._database.write() as session:
            rows = session.execute(lost.with_for_update(skip_locked=True)).all()
            for row, is_overdue in rows:
                event, values = job_rules.abandoned(
                    lost_attempts=row.lost_attempts,
                    cancel_requested=row.cancel_requested,
                    is_overdue=bool(is_overdue),
                )
                payload = {"reason": values["reason"]}
                job_rows.transition(session, JobRow.id == row.id, values, event=event, payload=payload)
            return tuple(row.id for row, _ in rows)

    def add_event(
        self, job_id: int, kind: str, payload: Mapping[str, Any] | None = None, *, fence: int | None = None
    ) -> bool:
        """Add an event to the journal; False if `fence` is given and another claim has raised it since.

        Raises:
            JobNotFound: there is no such job.
        """
        with self._database.write() as session:
            row = job_rows.find(session, job_id, lock=True)
            if fence is not None and row.fence != fence:
                return False
            job_rows.append_event(session, row, kind=kind, payload=payload or {})
            return True

    def set_run(self, job_id: int, run_id: str, fence: int) -> bool:
        """Store the id of the tracking run; False if the fence is no longer the caller's."""
        return self._note(job_id, {"run_id": run_id}, fence=fence)

    def set_log(self, job_id: int, log_path: str, fence: int) -> bool:
        """Store the path of the log; False if the fence is no longer the caller's."""
        path = Path(log_path)
        noted = path.relative_to(self._home) if path.is_relative_to(self._home) else path
        return self._note(job_id, {"log_path": str(noted)}, fence=fence)

    def set_compute_dtype(self, job_id: int, compute_dtype: str, fence: int) -> bool:
        """Note what the attempt computes in, e.g. "bfloat16"; False if the fence is no longer ours."""
        return self._note(job_id, {"compute_dtype": compute_dtype}, fence=fence)

    def newest(self, kind: str, spec_digest: str) -> Job | None:
        """The newest job of this kind with this request; None if no job has it."""
        same = select(JobRow).where(JobRow.kind == kind, JobRow.spec_digest == spec_digest)
        found = self._jobs(same.order_by(JobRow.id.desc()).limit(1))
        return found[0] if found else None

    def is_claimable(self, job_id: int) -> bool:
        """Whether the job is claimable now."""
        wanted = select(JobRow.id).where(JobRow.id == job_id, job_rules.claimable())
        with self._database.read() as session:
            return session.scalar(wanted) is not None

    def claimable(self) -> Mapping[str, int]:
        """Queue -> how many of its jobs are claimable now."""
        wanted = select(JobRow.queue, func.count()).where(job_rules.claimable()).group_by(JobRow.queue)
        with self._database.read() as session:
            return {str(queue): int(count) for queue, count in session.execute(wanted)}

    def get(self, job_id: int) -> Job:
        """The job.

        Raises:
            JobNotFound: there is no such job.
        """
        with self._database.read() as session:
            return self._as_job(job_rows.find(session, job_id))

    def events(self, job_id: int, *, after: int = 0) -> tuple[JobEvent, ...]:
        """The journal in order, from the event after number `after`.

        Raises:
            JobNotFound: there is no such job.
        """
        wanted = select(JobEventRow).where(JobEventRow.job_id == job_id, JobEventRow.sequence > after)
        with self._database.read() as session:
            job_rows.find(session, job_id)
            rows = session.scalars(wanted.order_by(JobEventRow.sequence))
            return tuple(job_rows.as_event(row) for row in rows)

    def list(self, states: Sequence[str] | None = None, *, limit: int | None = 100) -> tuple[Job, ...]:
        """Jobs, newest first, of the given states or of all."""
        wanted = select(JobRow).order_by(JobRow.id.desc()).limit(limit)
        return self._jobs(wanted if states is None else wanted.where(JobRow.state.in_(states)))

    def _jobs(self, wanted: Select[JobRow]) -> tuple[Job, ...]:
        with self._database.read() as session:
            return tuple(self._as_job(row) for row in session.scalars(wanted))

    def _as_job(self, row: JobRow) -> Job:
        job = job_rows.as_job(row)
        return job if job.log_path is None else replace(job, log_path=str(self._home / job.log_path))

    def _note(self, job_id: int, values: Mapping[str, Any], *, fence: int) -> bool:
        with self._database.write() as session:
            return job_rows.change(session, job_rules.held(job_id, fence), values) is not None


def _storable(message: str | None) -> str | None:
    return None if message is None else storable_text(message)
