"""The registry as everybody else sees it: one object, one method a use case, frozen records in and out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.database.database import Database
from registry.database.schema import ensure_current
from registry.database.sqlite_location import require_place
from registry.entities import (
    AdapterVersion,
    Alias,
    BaseModel,
    CompositionVersion,
    DatasetVersion,
    ExpertRecord,
    NewEvaluation,
)
from registry.errors import InvalidSetting
from registry.files.artifacts import ArtifactStore
from registry.records import aliases, evaluations, removal, versions
from registry.records.catalogue import Catalogue
from registry.records.kinds import Record, VersionedKind, versioned_kind
from registry.records.record_rows import as_base
from registry.records.versions import Holder
from registry.registration import adapters as adapter_registration
from registry.registration import bases as base_registration
from registry.registration import compositions as composition_registration
from registry.registration import datasets as dataset_registration
from registry.registration.adapters import AdapterLabels
from registry.settings import Settings


class Registry(Catalogue):
    """What exists. `Registry.open` gives one that is ready; it is a context manager."""

    @classmethod
    def open(cls, settings: Settings) -> "Registry":
        """Create the zoo's folder if it is not there, and bring the database up to date.

        Raises:
            InvalidSetting: the folder cannot be created, the database file has no place or is none, or
                nothing opens the artifact store's URL.
            DatabaseUnreachable: the database does not answer.
            SchemaMismatch: a newer release has written the database.
        """
        require_place(settings)
        create_home(settings.home)
        database = Database(settings)
        try:
            ensure_current(database)
            return cls(settings, database=database, artifacts=_artifacts_at(settings.artifact_root))
        except BaseException:
            database.close()
            raise

    def register_base(
        self, folder: Path, *, name: str, source: str, revision: str | None = None, licence: str | None = None
    ) -> BaseModel:
        """Register a base model: see `base_registration`."""
        return base_registration.register_base(
            folder,
            name=name,
            source=source,
            revision=revision,
            licence=licence,
            database=self._database,
            artifacts=self.artifacts,
        )

    def register_adapter(
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
    ) -> AdapterVersion:
        """Register an adapter version: see `adapter_registration`.

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
        )
        return adapter_registration.register_adapter(
            folder,
            labels=labels,
            bases=() if base else self.bases(),
            asked=self.base(base) if base else None,
            holder=Holder.of(job_id, fence),
            database=self._database,
            artifacts=self.artifacts,
        )

    def register_dataset(
        self,
        file: Path,
        *,
        name: str | None = None,
        domain: str | None = None,
        split: str | None = None,
        licence: str | None = None,
        origin: str | None = None,
    ) -> DatasetVersion:
        """Register a dataset version: see `dataset_registration`."""
        return dataset_registration.register_dataset(
            file,
            name=name,
            domain=domain,
            split=split,
            licence=licence,
            origin=origin,
            database=self._database,
            artifacts=self.artifacts,
        )

    def register_composition(
        self,
        folder: Path,
        *,
        name: str,
        base_digest: str,
        experts: Sequence[ExpertRecord],
        head_config: Mapping[str, Any],
        report: Mapping[str, Any],
        job_id: int | None = None,
        fence: int | None = None,
    ) -> CompositionVersion:
        """Register a composition version: see `composition_registration`.

        With `job_id` and `fence`, only while that job is held under that fence, and once a job.
        """
        return composition_registration.register_composition(
            folder,
            name=name,
            base_digest=base_digest,
            experts=experts,
            head_config=head_config,
            report=report,
            holder=Holder.of(job_id, fence),
            database=self._database,
            artifacts=self.artifacts,
        )

    def record_evaluations(self, measured: Sequence[NewEvaluation], *, fence: int | None = None) -> None:
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

    def set_alias(
        self,
        name: str,
        alias: str,
        version: int | None,
        *,
        kind: str = "adapter",
        expected: int | None = None,
        reason: str | None = None,
    ) -> Alias:
        """Point an alias to a version, None for nothing; `expected` 0 means that it must not exist yet.

        Raises:
            AliasMoved: it does not point to the expected version; nothing was changed.
            NotFound: there is no such name or version.
        """
        with self._database.write() as session:
            return aliases.move_alias(
                session,
                versioned_kind(kind),
                name,
                alias,
                version=version,
                expected=expected,
                reason=reason,
            )

    def remove(self, reference: str, *, kind: str) -> Record:
        """Remove a record of kind base, adapter, dataset or composition; `restore` brings it back.

        Raises:
            InUse: something else needs it; the error names what.
            NotFound: there is no such record.
        """
        with self._database.write() as session:
            if kind == "base":
                return as_base(removal.remove_base(session, reference))
            found = versioned_kind(kind)
            return _record(found, removal.remove_version(session, found, reference))

    def restore(self, reference: str, *, kind: str) -> Record:
        """Bring back what `remove` took away.

        Raises:
            Conflict: it needs something that was removed itself; the error says how to bring that back.
            NotFound: there is no such record.
        """
        with self._database.write() as session:
            if kind == "base":
                return as_base(removal.restore_base(session, reference))
            found = versioned_kind(kind)
            return _record(found, removal.restore_version(session, found, reference))


def _record(kind: VersionedKind[Any], row: Any) -> Record:
    record: Record = kind.as_record(row)
    return record


def _artifacts_at(root: str) -> ArtifactStore:
    try:
        return ArtifactStore(root)
    except (ImportError, ValueError) as error:
        scheme = root.partition("://")[0]
        # The URL's rest is not repeated: it may hold a key.
        raise InvalidSetting(
            f"ZOO_ARTIFACT_ROOT: nothing here opens {scheme}:// ({error}); correct it, unset it, or install"
            f" the driver: pip install 'fsspec[{scheme}]'; look at it with: zoo doctor"
        ) from error


def create_home(home: Path) -> None:
    """Make the zoo's folder, for its owner alone; raises InvalidSetting."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(
            f"the folder {home} cannot be created ({error.strerror}); set ZOO_HOME to one you may write to"
        ) from error
