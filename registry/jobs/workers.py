"""The list of workers: each announces itself at intervals, and deletes its row when it ends."""

from collections.abc import Sequence

from sqlalchemy import delete, select, update

from registry.database.database import Database
from registry.database.insertion import insert_or_update
from registry.database.times import database_now
from registry.entities import Worker
from registry.jobs.models import WorkerRow


class WorkerStore:
    """The table of workers, which only people read: no job depends on it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def announce(
        self, name: str, *, host: str, process_id: int, queues: Sequence[str], gpu: str | None, state: str
    ) -> None:
        """Add the worker, or renew its row."""
        columns = {
            "name": name,
            "host": host,
            "process_id": process_id,
            "queues": list(queues),
            "gpu": gpu,
            "state": state,
            "seen_at": database_now(),
        }
        with self._database.write() as session:
            renewed = session.execute(
                update(WorkerRow).where(WorkerRow.name == name).values(state=state, seen_at=database_now()),
                execution_options={"synchronize_session": False},
            )
            if renewed.rowcount == 0:  # type: ignore[attr-defined]  # a cursor's result has one
                session.execute(insert_or_update(session, WorkerRow, columns, unique=("name",)))

    def remove(self, name: str) -> None:
        """Delete the row of a worker that has ended or is known to be dead."""
        with self._database.write() as session:
            session.execute(
                delete(WorkerRow).where(WorkerRow.name == name),
                execution_options={"synchronize_session": False},
            )

    def list(self, *, seen_within_s: float | None = None) -> tuple[Worker, ...]:
        """The workers, by host and age; with `seen_within_s`, those announced within that time."""
        wanted = select(WorkerRow).order_by(WorkerRow.host, WorkerRow.started_at)
        if seen_within_s is not None:
            wanted = wanted.where(WorkerRow.seen_at > database_now(-seen_within_s))
        with self._database.read() as session:
            return tuple(_as_worker(row) for row in session.scalars(wanted))


def _as_worker(row: WorkerRow) -> Worker:
    fields = {name: getattr(row, name) for name in Worker.__dataclass_fields__}
    return Worker(**{**fields, "queues": tuple(row.queues)})
