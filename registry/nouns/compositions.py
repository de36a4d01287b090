"""Compositions: registering, looking up, listing, removing, and aliases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.database.database import Database
from registry.database.reader import reader_over
from registry.entities import CompositionVersion, ExpertRecord, StoredMethod
from registry.files.artifacts import ArtifactStore
from registry.lists import queries
from registry.lists.queries import Rows
from registry.nouns.versioned import Versioned
from registry.records.kinds import COMPOSITION
from registry.records.versions import Holder
from registry.registration.compositions import register_composition


class Compositions(Versioned[CompositionVersion]):
    """Compositions and their versions."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        super().__init__(COMPOSITION, database, artifacts)

    def register(
        self,
        folder: Path,
        *,
        name: str,
        base_digest: str,
        experts: Sequence[ExpertRecord],
        method: StoredMethod,
        report: Mapping[str, Any],
        job_id: int | None = None,
        fence: int | None = None,
    ) -> CompositionVersion:
        """Register a composition version: see `registration.compositions`.

        With `job_id` and `fence`, only while that job is held under that fence, and once for each job.
        """
        return register_composition(
            folder,
            name=name,
            base_digest=base_digest,
            experts=experts,
            method=method,
            report=report,
            holder=Holder.of(job_id, fence),
            database=self._database,
            artifacts=self._artifacts,
        )

    def list(
        self,
        *,
        base: str | None = None,
        expert: str | None = None,
        include_deleted: bool = False,
        limit: int | None = None,
    ) -> Rows:
        """Composition versions as `zoo compositions ls` shows them: see `lists.queries`."""
        with self._database.read() as session:
            return queries.compositions(
                reader_over(session), base=base, expert=expert, include_deleted=include_deleted, limit=limit
            )
