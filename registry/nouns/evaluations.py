"""Evaluations: recorded and looked up. What measures them is elsewhere."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.database.database import Database
from registry.entities import Evaluation, FileRecord, NewEvaluation
from registry.errors import ArtifactError
from registry.files.artifacts import ArtifactStore
from registry.records import evaluations, versions
from registry.records.versions import Holder

#: Examples as JSON objects.
Rows = list[dict[str, Any]]

#: The name of the file that holds a measurement's examples.
EXAMPLES = "examples.jsonl"


class Evaluations:
    """Measured values of base models, adapters and compositions."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        self._database = database
        self._artifacts = artifacts

    def store_examples(self, file: Path) -> tuple[FileRecord, ...]:
        """Store a measurement's examples, one JSON object a line, for the `files` of its values.

        Raises:
            ArtifactError: it cannot be stored.
        """
        with self._artifacts.staging() as staging:
            staging.copy(file, EXAMPLES, refusal=ArtifactError)
            return self._artifacts.store(staging, [EXAMPLES])

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

    def get(self, number: int) -> Evaluation:
        """The value of that number.

        Raises:
            NotFound: there is none.
        """
        with self._database.read() as session:
            return evaluations.found(session, number)

    def measured_with(self, evaluation: Evaluation) -> tuple[Evaluation, ...]:
        """The values of one measurement: one subject and task on the same data with the same settings."""
        with self._database.read() as session:
            return evaluations.measured_with(session, evaluation)

    def examples(self, evaluation: Evaluation, *, cache: Path) -> Rows:
        """The examples that a value is of, as they were measured, verified; none where they were not kept.

        Raises:
            ArtifactMissing, DigestMismatch: the stored file is gone, or was changed.
        """
        if not evaluation.files:
            return []
        folder = self._artifacts.materialise(evaluation.files, cache)
        with (folder / EXAMPLES).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def list(
        self,
        subject: str | None = None,
        *,
        dataset_digest: str | None = None,
        task: str | None = None,
        metric: str | None = None,
        limit: int | None = None,
    ) -> tuple[Evaluation, ...]:
        """Recorded values, the newest first; a subject is written like `adapter:bio@3`."""
        with self._database.read() as session:
            return evaluations.recorded(
                session, subject=subject, dataset_digest=dataset_digest, task=task, metric=metric, limit=limit
            )
