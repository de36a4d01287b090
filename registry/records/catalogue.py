"""Reading the registry: references to records, lists of them, their files. Changes nothing."""

from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import select

from registry.database.database import Database
from registry.entities import (
    AdapterVersion,
    Alias,
    BaseModel,
    CompositionVersion,
    DatasetVersion,
    Evaluation,
)
from registry.files.artifacts import ArtifactStore
from registry.jobs.store import JobStore
from registry.jobs.workers import WorkerStore
from registry.records import aliases, evaluations
from registry.records.kinds import ADAPTER, COMPOSITION, DATASET, Record, VersionedKind, versioned_kind
from registry.records.lookup import ACTIVE, ACTIVE_FIRST, ONLY_ACTIVE, find_base, find_version
from registry.records.models import BaseModelRow
from registry.records.record_rows import as_base
from registry.settings import Settings

_Version = TypeVar("_Version", AdapterVersion, DatasetVersion, CompositionVersion)


class Catalogue:
    """What is registered, as frozen records; every method looks at one state of the database."""

    def __init__(self, settings: Settings, *, database: Database, artifacts: ArtifactStore) -> None:
        self.settings = settings
        self.artifacts = artifacts
        self.jobs = JobStore(database, home=settings.home)
        self.workers = WorkerStore(database)
        self._database = database

    def disconnect(self) -> None:
        """Close the connections that no transaction uses; the next one opens its own."""
        self._database.disconnect()

    def close(self) -> None:
        """Give back all connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def base(self, reference: str, *, include_deleted: bool = False) -> BaseModel:
        """The base model of a name or digest; BaseNotFound otherwise."""
        with self._database.read() as session:
            return as_base(find_base(session, reference, states=_states(include_deleted)))

    def adapter(self, reference: str, *, include_deleted: bool = False) -> AdapterVersion:
        """The adapter version a reference means; AdapterNotFound otherwise."""
        return self._version(ADAPTER, reference, include_deleted=include_deleted)

    def dataset(self, reference: str, *, include_deleted: bool = False) -> DatasetVersion:
        """The dataset version a reference means; DatasetNotFound otherwise."""
        return self._version(DATASET, reference, include_deleted=include_deleted)

    def composition(self, reference: str, *, include_deleted: bool = False) -> CompositionVersion:
        """The composition version a reference means; CompositionNotFound otherwise."""
        return self._version(COMPOSITION, reference, include_deleted=include_deleted)

    def bases(self, *, include_deleted: bool = False) -> tuple[BaseModel, ...]:
        """All base models, by name."""
        wanted = select(BaseModelRow).order_by(BaseModelRow.name)
        if not include_deleted:
            wanted = wanted.where(BaseModelRow.state == ACTIVE)
        with self._database.read() as session:
            return tuple(as_base(row) for row in session.scalars(wanted))

    def adapters(
        self, *, base: str | None = None, include_deleted: bool = False
    ) -> tuple[AdapterVersion, ...]:
        """All adapter versions, or those made for a base model, by name and number."""
        digest = None if base is None else self.base(base).digest
        versions = self._versions(ADAPTER, include_deleted=include_deleted)
        return tuple(version for version in versions if digest in (None, version.base_digest))

    def datasets(self, *, include_deleted: bool = False) -> tuple[DatasetVersion, ...]:
        """All dataset versions, by name and number."""
        return self._versions(DATASET, include_deleted=include_deleted)

    def compositions(self, *, include_deleted: bool = False) -> tuple[CompositionVersion, ...]:
        """All composition versions, by name and number."""
        return self._versions(COMPOSITION, include_deleted=include_deleted)

    def adapter_of_job(self, job_id: int) -> AdapterVersion | None:
        """What a train job has registered, if it has."""
        return self._of_job(ADAPTER, job_id)

    def composition_of_job(self, job_id: int) -> CompositionVersion | None:
        """What a compose job has registered, if it has."""
        return self._of_job(COMPOSITION, job_id)

    def materialise(self, record: Record) -> Path:
        """A folder with just the record's files, each verified against its digest on every call.

        Raises:
            ArtifactMissing: a file is gone from the artifact store.
            DigestMismatch: a stored file was changed.
        """
        return self.artifacts.materialise(record.files, self.settings.home / "cache")

    def evaluations(
        self, subject: str | None = None, *, dataset_digest: str | None = None, task: str | None = None
    ) -> tuple[Evaluation, ...]:
        """Recorded values, the newest first; a subject is written like `adapter:bio@3`."""
        with self._database.read() as session:
            return evaluations.recorded(session, subject=subject, dataset_digest=dataset_digest, task=task)

    def aliases(self, kind: str, name: str) -> tuple[Alias, ...]:
        """Where the aliases of a name point now."""
        with self._database.read() as session:
            return aliases.current_aliases(session, versioned_kind(kind), name)

    def alias_history(self, kind: str, name: str) -> tuple[Alias, ...]:
        """Every move of the aliases of a name, the oldest first."""
        with self._database.read() as session:
            return aliases.alias_history(session, versioned_kind(kind), name)

    def _version(self, kind: VersionedKind[_Version], reference: str, *, include_deleted: bool) -> _Version:
        with self._database.read() as session:
            return kind.as_record(find_version(session, kind, reference, states=_states(include_deleted)))

    def _versions(self, kind: VersionedKind[_Version], *, include_deleted: bool) -> tuple[_Version, ...]:
        of_name = getattr(kind.versions, kind.name_key) == kind.names.id
        wanted = select(kind.versions).join(kind.names, of_name)
        if not include_deleted:
            wanted = wanted.where(kind.versions.state == ACTIVE)
        with self._database.read() as session:
            rows = session.scalars(wanted.order_by(kind.names.name, kind.versions.version))
            return tuple(kind.as_record(row) for row in rows)

    def _of_job(self, kind: VersionedKind[_Version], job_id: int) -> _Version | None:
        with self._database.read() as session:
            row = session.scalar(select(kind.versions).where(kind.versions.job_id == job_id))
            return None if row is None else kind.as_record(row)


def _states(include_deleted: bool) -> tuple[str, ...]:
    return ACTIVE_FIRST if include_deleted else ONLY_ACTIVE
