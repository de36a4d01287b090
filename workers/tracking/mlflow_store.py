"""Ships a job's spool to MLflow; the only module that imports MLflow, and only when something is shipped.

Shipping twice changes nothing: a run is found again by its spool's id, a duplicate that a lost answer caused
is deleted, and MLflow keeps one value per metric, step and time. Knows no jobs; `workers.tracking.shipping`
runs it in a process of its own.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workers.errors import TrackingUnavailable
from workers.processes.file_lock import file_lock
from workers.processes.replaced_file import replaced_file
from workers.tracking.moved_artifacts import follow_moved_artifacts
from workers.tracking.spool import SPOOL_FOLDER, Shipment, keep_shipped, read_lines, shipped, tracking_name

_SQLITE = "sqlite:///"
_SPOOL_TAG = "zoo.spool"
#: MLflow's lifecycle stage of what can be brought back.
_DELETED = "deleted"
# MLflow's limits on one request, mlflow/utils/validation.py
_BATCH_METRICS = 1000
_BATCH_PARAMETERS = 100
#: User and password of a URL, which MLflow's messages repeat.
_ACCOUNT = re.compile(r"(?<=://)[^\s/]*@")


class TrackedDeleted(Exception):
    """What a run belongs to was deleted in MLflow, which takes nothing more for it."""


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
        return _Delivery(
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


class _Delivery:
    """One pass over one spool; progress is saved after each request that MLflow accepted."""

    def __init__(
        self, client: Any, job_folder: Path, state: Shipment, *, artifact_root: Path | None, restore: bool
    ) -> None:
        self._client = client
        self._job_folder = job_folder
        self._state = state
        self._artifact_root = artifact_root
        self._restore = restore
        self._metrics: list[Any] = []
        self._actions = {
            "spool": self._spool,
            "begin": self._begin,
            "tags": self._tags,
            "artifact": self._artifact,
            "end": self._end,
        }

    def ship(self) -> Shipment:
        self._require_active_run()
        offset = self._state.offset
        for line in read_lines(self._job_folder, offset=offset):
            action = str(line.record.get("action"))
            if action == "metrics":
                self._collect(line.record)
            elif action in self._actions:
                self._flush(offset)
                self._actions[action](line.record)
            offset = line.end_offset
            if action != "metrics" or len(self._metrics) >= _BATCH_METRICS:
                self._flush(offset)
        self._flush(offset)
        return self._state

    def _require_active_run(self) -> None:
        """Bring back a run that was deleted, or refuse it.

        Raises:
            TrackedDeleted: it was deleted, and its restoration was not asked for.
        """
        if self._state.run_id is None:
            return
        run = self._client.get_run(self._state.run_id)
        self._require_active_experiment(self._client.get_experiment(run.info.experiment_id))
        if run.info.lifecycle_stage == _DELETED:
            if not self._restore:
                raise TrackedDeleted(f"its run {run.info.run_id} was deleted")
            self._client.restore_run(run.info.run_id)

    def _require_active_experiment(self, experiment: Any) -> None:
        if experiment.lifecycle_stage == _DELETED:
            if not self._restore:
                raise TrackedDeleted(f"its experiment {experiment.name} was deleted")
            self._client.restore_experiment(experiment.experiment_id)

    def _flush(self, offset: int) -> None:
        for batch in _batches(self._metrics, _BATCH_METRICS):
            self._client.log_batch(self._state.run_id, metrics=batch)
        self._metrics = []
        if offset != self._state.offset or self._state.reason:
            self._save(replace(self._state, offset=offset, reason=""))

    def _save(self, state: Shipment) -> None:
        self._state = state
        keep_shipped(self._job_folder, state)

    def _collect(self, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric

        for name, value in record["values"].items():
            self._metrics.append(Metric(tracking_name(name), value, record["at_ms"], record["step"]))

    def _spool(self, record: Mapping[str, Any]) -> None:
        self._save(replace(self._state, spool_id=record["id"]))

    def _begin(self, record: Mapping[str, Any]) -> None:
        experiment_id = self._experiment_id(record["experiment"])
        run = self._found_run(experiment_id) or self._client.create_run(
            experiment_id,
            start_time=record["at_ms"],
            run_name=record["name"],
            tags={_SPOOL_TAG: self._state.spool_id},
        )
        self._save(replace(self._state, run_id=run.info.run_id))
        if run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._parameters(record["parameters"], known=run.data.params)
        self._tags({"values": record["tags"]})

    def _found_run(self, experiment_id: str) -> Any:
        if self._state.run_id is not None:
            return self._client.get_run(self._state.run_id)
        return next(iter(self._runs_of_this_spool(experiment_id)), None)

    def _runs_of_this_spool(self, experiment_id: str) -> Sequence[Any]:
        found: Sequence[Any] = self._client.search_runs(
            [experiment_id], filter_string=f"tags.`{_SPOOL_TAG}` = '{self._state.spool_id}'"
        )
        return found

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            artifacts = None if self._artifact_root is None else (self._artifact_root / name).as_uri()
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException:
                # Another process may have created it in between; otherwise the error is real.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        self._require_active_experiment(found)
        return str(found.experiment_id)

    def _parameters(self, parameters: Mapping[str, str], *, known: Mapping[str, str]) -> None:
        # MLflow refuses to change a parameter, and a retry may use other values, such as a smaller batch.
        from mlflow.entities import Param

        fresh = [Param(name, value) for name, value in parameters.items() if name not in known]
        for batch in _batches(fresh, _BATCH_PARAMETERS):
            self._client.log_batch(self._state.run_id, params=batch)

    def _tags(self, record: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value) for name, value in record["values"].items()]
        for batch in _batches(tags, _BATCH_PARAMETERS):
            self._client.log_batch(self._state.run_id, tags=batch)

    def _artifact(self, record: Mapping[str, Any]) -> None:
        path = self._job_folder / SPOOL_FOLDER / record["path"]
        if path.exists():
            self._client.log_artifact(self._state.run_id, str(path), record["folder"] or None)

    def _end(self, record: Mapping[str, Any]) -> None:
        self._delete_duplicates()
        self._client.set_terminated(self._state.run_id, status=record["status"], end_time=record["at_ms"])

    def _delete_duplicates(self) -> None:
        # A server too slow to answer in time may still create a run, after a search had not found it.
        run = self._client.get_run(self._state.run_id)
        for found in self._runs_of_this_spool(run.info.experiment_id):
            if found.info.run_id != self._state.run_id:
                self._client.delete_run(found.info.run_id)


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


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
