"""The registry's public interface: one object with a noun for each kind of record; records are frozen."""

from pathlib import Path
from types import TracebackType
from typing import Self

from registry.database.database import Database
from registry.database.schema import ensure_current
from registry.database.sqlite_location import require_location
from registry.errors import InvalidSetting
from registry.files.artifacts import ArtifactStore
from registry.jobs.store import JobStore
from registry.jobs.workers import WorkerStore
from registry.nouns.adapters import Adapters
from registry.nouns.bases import Bases
from registry.nouns.compositions import Compositions
from registry.nouns.datasets import Datasets
from registry.nouns.evaluations import Evaluations
from registry.records.kinds import Record
from registry.settings import Settings


class Registry:
    """The registry; `Registry.open` returns one that is ready. It is a context manager."""

    def __init__(self, settings: Settings, *, database: Database, artifacts: ArtifactStore) -> None:
        self.settings = settings
        self.artifacts = artifacts
        self._database = database
        self.bases = Bases(database, artifacts)
        self.adapters = Adapters(database, artifacts)
        self.datasets = Datasets(database, artifacts)
        self.compositions = Compositions(database, artifacts)
        self.evaluations = Evaluations(database, artifacts)
        self.jobs = JobStore(database, home=settings.home)
        self.workers = WorkerStore(database)

    @classmethod
    def open(cls, settings: Settings) -> "Registry":
        """Create the zoo's folder if it is missing, and upgrade the database.

        Raises:
            InvalidSetting: the folder cannot be created, the database file has no folder or is no
                database, or nothing opens the artifact store's URL.
            DatabaseUnreachable: the database does not answer.
            SchemaMismatch: a newer release has written the database.
        """
        require_location(settings)
        create_home(settings.home)
        database = Database(settings)
        try:
            ensure_current(database)
            return cls(settings, database=database, artifacts=_artifacts_of(settings))
        except BaseException:
            database.close()
            raise

    def materialise(self, record: Record) -> Path:
        """A folder with just the record's files, each verified against its digest on every call.

        It is kept until `close`; later the cache may remove it to make room for others.

        Raises:
            ArtifactMissing: a file is missing from the artifact store.
            DigestMismatch: a stored file was changed.
        """
        return self.artifacts.materialise(record.files, self.settings.home / "cache")

    def disconnect(self) -> None:
        """Close the connections that no transaction uses; the next transaction opens its own."""
        self._database.disconnect()

    def close(self) -> None:
        """Close all connections, and let the cache remove what was materialised."""
        self.artifacts.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def create_home(home: Path) -> None:
    """Create the zoo's folder, for its owner alone; raises InvalidSetting."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(
            f"the folder {home} cannot be created ({error.strerror}); set ZOO_HOME to one you may write to"
        ) from error


def _artifacts_of(settings: Settings) -> ArtifactStore:
    root = settings.artifact_root
    try:
        return ArtifactStore(root, cache_limit_bytes=settings.cache_size_bytes)
    except (ImportError, ValueError) as error:
        scheme = root.partition("://")[0]
        # The rest of the URL is not printed, because it may contain a key.
        raise InvalidSetting(
            f"ZOO_ARTIFACT_ROOT: nothing here opens {scheme}:// ({error}); correct it, unset it, or install"
            f" the driver: {driver_of(scheme)}; look at it with: zoo doctor"
        ) from error


def driver_of(scheme: str) -> str:
    """The command that installs what opens URLs of this scheme."""
    return "pip install 'adapter-zoo[s3]'" if scheme == "s3" else f"pip install 'fsspec[{scheme}]'"
