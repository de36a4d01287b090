"""Evaluations: recorded and looked up. What measures them is elsewhere."""

from collections.abc import Sequence

from registry.database.database import Database
from registry.entities import Evaluation, NewEvaluation
from registry.records import evaluations, versions
from registry.records.versions import Holder


class Evaluations:
    """Measured values of base models, adapters and compositions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, measured: Sequence[NewEvaluation], *, fence: int | None = None) -> None:
        """Record values, all or none; with a fence, only while their jobs are held under it.

        Raises:
            NotFound: a subject is not registered.
            InvalidField: a value is not a finite number.
            LeaseLost: a job no longer holds its lease; nothing was recorded.
        """
        with self._database.write() as session:
            if fence is not None:
                for job_id in evaluations.job_ids(measured):
                    versions.hold(session, Holder(job_id=job_id, fence=fence))
            for evaluation in measured:
                evaluations.record(session, evaluation)

    def list(
        self, subject: str | None = None, *, dataset_digest: str | None = None, task: str | None = None
    ) -> tuple[Evaluation, ...]:
        """Recorded values, the newest first; a subject is written like `adapter:bio@3`."""
        with self._database.read() as session:
            return evaluations.recorded(session, subject=subject, dataset_digest=dataset_digest, task=task)
