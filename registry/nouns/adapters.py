"""Adapters: registered, looked up, listed, removed, pointed to by aliases."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.database.database import Database
from registry.entities import AdapterVersion
from registry.files.artifacts import ArtifactStore
from registry.lists import queries
from registry.lists.queries import Rows
from registry.nouns.versioned import Versioned
from registry.records.kinds import ADAPTER
from registry.records.lookup import active_bases, find_base
from registry.records.record_rows import as_base
from registry.records.versions import Holder
from registry.registration.adapters import AdapterLabels, register_adapter
from registry.settings import Settings


class Adapters(Versioned[AdapterVersion]):
    """LoRA adapters and their versions."""

    def __init__(self, settings: Settings, database: Database, artifacts: ArtifactStore) -> None:
        super().__init__(ADAPTER, settings, database, artifacts)

    def register(
        self,
        folder: Path,
        *,
        name: str,
        base: str | None = None,
        domains: Sequence[str] = (),
        tags: Sequence[str] = (),
        licence: str | None = None,
        description: str = "",
        origin: str | None = None,
        job_id: int | None = None,
        fence: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        effect_score: float | None = None,
        compute_dtype: str | None = None,
    ) -> AdapterVersion:
        """Register an adapter version: see `registration.adapters`.

        With `job_id` and `fence`, only while that job is held under that fence, and once a job.
        """
        labels = AdapterLabels(
            name=name,
            domains=domains,
            tags=tags,
            licence=licence,
            description=description,
            origin=origin or f"file:{folder.name}",
            parameters=parameters or {},
            effect_score=effect_score,
            compute_dtype=compute_dtype,
        )
        with self._database.read() as session:
            asked = as_base(find_base(session, base)) if base else None
            bases = () if base else active_bases(session)
        return register_adapter(
            folder,
            labels=labels,
            bases=bases,
            asked=asked,
            holder=Holder.of(job_id, fence),
            database=self._database,
            artifacts=self._artifacts,
        )

    def list(
        self,
        *,
        base: str | None = None,
        domain: str | None = None,
        trained_on: str | None = None,
        include_deleted: bool = False,
        sort: str = "name",
        limit: int | None = None,
    ) -> Rows:
        """Adapter versions as `zoo adapters ls` shows them: see `lists.queries`."""
        return queries.adapters(
            self._settings,
            base=base,
            domain=domain,
            trained_on=trained_on,
            include_deleted=include_deleted,
            sort=sort,
            limit=limit,
        )
