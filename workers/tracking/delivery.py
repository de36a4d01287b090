"""One pass over one spool: each line becomes the request to MLflow that it stands for.

Delivering twice changes nothing: see `workers.tracking.mlflow_store`, which decides when and to which store.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workers.tracking.experiments import tags_of_experiment
from workers.tracking.spool import FILES, SPOOL_FOLDER, Shipment, keep_shipped, read_lines, tracking_name

_SPOOL_TAG = "zoo.spool"
#: MLflow's lifecycle stage of what can be brought back.
_DELETED = "deleted"
#: The tag by which MLflow's pages find the tables of a run.
_TABLES = "mlflow.loggedArtifacts"
# MLflow's limits on one request, mlflow/utils/validation.py
_BATCH_METRICS = 1000
_BATCH_PARAMETERS = 100
#: MLflow's column of a dataset's digest is this wide; so much of one tells datasets apart, and can be read.
_DIGEST_LENGTH = 12


class TrackedDeleted(Exception):
    """What a run belongs to was deleted in MLflow, which takes nothing more for it."""


class Delivery:
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
            "dataset": self._dataset,
            "table": self._table,
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
                return str(
                    self._client.create_experiment(
                        name, artifact_location=artifacts, tags=tags_of_experiment(name)
                    )
                )
            except MlflowException:
                # Another process may have created it in between; otherwise the error is real.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        self._require_active_experiment(found)
        for tag, value in tags_of_experiment(name).items():
            if tag not in found.tags:  # made by an earlier release; what a person wrote stays
                self._client.set_experiment_tag(found.experiment_id, tag, value)
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

    def _dataset(self, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = str(record["digest"])
        dataset = Dataset(
            name=record["name"],
            digest=digest.rpartition(":")[2][:_DIGEST_LENGTH],
            source_type="zoo",
            source=json.dumps({"uri": record["uri"], "digest": digest}),
            schema=json.dumps(record["schema"]),
            profile=json.dumps({"num_rows": record["examples"], "size_bytes": record["size_bytes"]}),
        )
        read = DatasetInput(dataset, tags=[InputTag("mlflow.data.context", record["context"])])
        self._client.log_inputs(self._state.run_id, [read])

    def _table(self, record: Mapping[str, Any]) -> None:
        path = str(record["path"])
        folder = str(Path(path).parent)
        self._artifact({"path": f"{FILES}/{path}", "folder": "" if folder == "." else folder})
        run = self._client.get_run(self._state.run_id)
        tables = json.loads(run.data.tags.get(_TABLES, "[]"))
        if (table := {"path": path, "type": "table"}) not in tables:
            self._client.set_tag(run.info.run_id, _TABLES, json.dumps([*tables, table]))

    def _end(self, record: Mapping[str, Any]) -> None:
        self._delete_duplicates()
        self._client.set_terminated(self._state.run_id, status=record["status"], end_time=record["at_ms"])

    def _delete_duplicates(self) -> None:
        # A server too slow to answer in time may still create a run, after a search had not found it.
        run = self._client.get_run(self._state.run_id)
        for found in self._runs_of_this_spool(run.info.experiment_id):
            if found.info.run_id != self._state.run_id:
                self._client.delete_run(found.info.run_id)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
