"""Ships a job's spool to MLflow, which is imported only when something is shipped.

Shipping twice changes nothing: a run is found again by its spool's id, a duplicate that a lost answer caused
is deleted, and MLflow keeps one value per metric, step and time. Knows no jobs; `workers.tracking.shipping`
runs it in a process of its own.
"""

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from workers.errors import TrackingUnavailable
from workers.processes.file_lock import file_lock
from workers.processes.replaced_file import replaced_file
from workers.tracking.delivery import Delivery
from workers.tracking.moved_artifacts import follow_moved_artifacts
from workers.tracking.spool import SPOOL_FOLDER, Shipment, keep_shipped, shipped

_SQLITE = "sqlite:///"
#: User and password of a URL, which MLflow's messages repeat.
_ACCOUNT = re.compile(r"(?<=://)[^\s/]*@")


class Tracker:
    """A client of the store at `uri`; a store in a SQLite file keeps its artifacts in `artifact_folder`."""

    def __init__(self, *, uri: str, artifact_folder: Path, restore: bool = False) -> None:
        """`restore`: bring back experiments and runs that were deleted, instead of refusing theirs."""
        self.store = store_name(uri)
        self._restore = restore
        self._uri = uri
        self._artifact_folder = artifact_folder if uri.startswith(_SQLITE) else None
        self._connected: Any = None

    def ship(self, job_folder: Path, *, wait: bool = True) -> Shipment:
        """Ship what is new in a job's spool.

        Raises:
            TrackingUnavailable: MLflow cannot be imported, reached or used; the rest stays in the spool.
            BlockingIOError: another process ships this spool, and `wait` is false.
        """
        with file_lock(job_folder / SPOOL_FOLDER / "lock", wait=wait):
            state = shipped(job_folder, store=self.store)
            try:
                try:
                    return self._deliver(job_folder, state)
                except Exception as exc:
                    if state.run_id is None or not _is_gone(exc):
                        raise
                # The store was set up anew meanwhile; the spool still has everything.
                return self._deliver(job_folder, Shipment(store=self.store))
            except Exception as exc:
                # All exceptions: whatever a tracker raises must not become the failure of a job.
                reason = _reason(self.store, exc)
                with contextlib.suppress(OSError):  # a full disk hides no reason
                    keep_shipped(job_folder, replace(shipped(job_folder, store=self.store), reason=reason))
                raise TrackingUnavailable(reason) from exc

    def _deliver(self, job_folder: Path, state: Shipment) -> Shipment:
        return Delivery(
            self.connect(), job_folder, state, artifact_root=self._artifact_folder, restore=self._restore
        ).ship()

    def connect(self) -> Any:
        """MLflow's client for the store; a missing SQLite file is created."""
        if self._connected is None:
            from mlflow.tracking import MlflowClient

            if self._artifact_folder is not None:
                database = Path(self._uri.removeprefix(_SQLITE))
                _create_sqlite_store(database, self._artifact_folder)
                follow_moved_artifacts(database, self._artifact_folder)
            self._connected = MlflowClient(tracking_uri=self._uri)
        return self._connected


def store_name(uri: str) -> str:
    """The store's URI without user and password, for messages and files."""
    scheme, separator, rest = uri.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def _create_sqlite_store(database: Path, artifact_folder: Path) -> None:
    """Create MLflow's tables in a staged file, so that a kill leaves no partial schema."""
    database.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(database.with_name(database.name + ".lock")):
        if database.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        with replaced_file(database) as staged:
            store = SqlAlchemyStore(f"{_SQLITE}{staged}", artifact_folder.as_uri())
            store.engine.dispose()


def _is_gone(exc: Exception) -> bool:
    """Whether MLflow answered that it has no such run."""
    return getattr(exc, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def _reason(store: str, exc: Exception) -> str:
    line = next(iter(str(exc).strip().splitlines()), "")
    return f"MLflow at {store} did not accept the run: {type(exc).__name__}: {_ACCOUNT.sub('', line)}"
