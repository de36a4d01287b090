"""Shipping a spool to MLflow, read back through MLflow's own client."""

import fcntl
import json
import logging
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers.errors import TrackingUnavailable
from workers.tracking.dataset_inputs import DatasetInput
from workers.tracking.mlflow_store import Tracker, store_name
from workers.tracking.shipping import MLFLOW_CLIENT_ENV
from workers.tracking.spool import (
    Run,
    Shipment,
    discard_pending,
    is_pending,
    keep_shipped,
    read_lines,
    shipped,
    tracking_name,
)

pytestmark = pytest.mark.processes  # MLflow starts one when it is imported

#: nothing listens on the discard port
DEAD_SERVER = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _quiet_and_quick_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MLFLOW_CLIENT_ENV.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one MLflow store, which is created once because that takes seconds."""
    logging.getLogger("alembic").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # What MLflow does at import is between it and its dependencies.
        warnings.simplefilter("ignore")
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - for its import alone
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def tracker(store: Path) -> Tracker:
    return Tracker(uri=f"sqlite:///{store}/mlflow.db", artifact_folder=store / "artifacts")


@pytest.fixture
def client(store: Path, tracker: Tracker) -> Any:
    from mlflow.tracking import MlflowClient

    tracker.connect()
    return MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    run.begin(experiment="zoo/train", name="bio", parameters={"rank": 8}, tags={"zoo.job": 7})
    for step in range(3):
        run.metrics({"train/loss": 1.0 - step / 10}, step=step)
    return run


def test_a_run_is_what_was_reported(tracker: Tracker, client: Any, run: Run, tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("fine")
    run.artifact(tmp_path / "report.md", folder="report")
    run.tags({"zoo.run.train.bio": "abc"})
    run.end("FINISHED")
    shipment = tracker.ship(tmp_path)
    found = client.get_run(shipment.run_id)
    assert client.get_experiment(found.info.experiment_id).name == "zoo/train"
    assert (found.info.run_name, found.info.status) == ("bio", "FINISHED")
    assert found.data.params == {"rank": "8"}
    assert (found.data.tags["zoo.job"], found.data.tags["zoo.run.train.bio"]) == ("7", "abc")
    history = client.get_metric_history(shipment.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (1, 0.9), (2, 0.8)]
    assert [file.path for file in client.list_artifacts(shipment.run_id, "report")] == ["report/report.md"]
    assert not is_pending(tmp_path, store=tracker.store)


BIO = DatasetInput(
    name="bio.train@1",
    digest=f"sha256:{'c' * 64}",
    uri="zoo:bio.train@1",
    examples=12,
    size_bytes=340,
    context="training",
    schema={"mlflow_colspec": []},
)


def test_what_a_run_reads_is_there_once_with_its_digest(
    tracker: Tracker, client: Any, run: Run, tmp_path: Path
) -> None:
    run.dataset(BIO)
    run.dataset(BIO)  # by another attempt
    run.dataset(replace(BIO, name="bio.eval@1", digest=f"sha256:{'d' * 64}", context="evaluation"))
    shipment = tracker.ship(tmp_path)
    (tmp_path / "tracking" / "shipped.json").unlink()
    tracker.ship(tmp_path)
    read = client.get_run(shipment.run_id).inputs.dataset_inputs
    assert sorted((each.dataset.name, each.dataset.digest, each.tags[0].value) for each in read) == [
        ("bio.eval@1", "d" * 12, "evaluation"),
        ("bio.train@1", "c" * 12, "training"),
    ]
    assert json.loads(read[0].dataset.source)["digest"].startswith("sha256:")


def test_a_table_is_read_back_by_mlflow_and_listed_once(
    tracker: Tracker, client: Any, run: Run, tmp_path: Path
) -> None:
    for loss in (2.0, 1.0):  # by another attempt
        run.table("examples/adapter:bio@1/C#", {"question": ["Süß?", "b"], "loss": [loss, None]})
    shipment = tracker.ship(tmp_path)
    (listed,) = json.loads(client.get_run(shipment.run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed["type"] == "table"
    assert ":" not in listed["path"]  # which MLflow's `load_table` refuses
    table = json.loads(Path(client.download_artifacts(shipment.run_id, listed["path"])).read_text("utf-8"))
    assert table == {"columns": ["question", "loss"], "data": [["Süß?", 1.0], ["b", None]]}


def test_experiments_say_that_they_hold_runs_and_what_their_metrics_are(
    tracker: Tracker, client: Any, run: Run, tmp_path: Path
) -> None:
    shipment = tracker.ship(tmp_path)
    experiment = client.get_experiment(client.get_run(shipment.run_id).info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "`train/loss`" in experiment.tags["mlflow.note.content"]


def test_an_experiment_of_an_earlier_release_says_so_too_and_keeps_what_a_person_wrote(
    tracker: Tracker, client: Any, tmp_path: Path
) -> None:
    made = client.create_experiment("zoo/compose", tags={"mlflow.note.content": "mine"})
    run = Run(tmp_path)
    run.begin(experiment="zoo/compose", name="science", parameters={}, tags={})
    tracker.ship(tmp_path)
    tags = client.get_experiment(made).tags
    assert tags == {"mlflow.note.content": "mine", "mlflow.experimentKind": "custom_model_development"}


def test_shipping_goes_on_where_it_ended(tracker: Tracker, client: Any, run: Run, tmp_path: Path) -> None:
    first = tracker.ship(tmp_path)
    run.metrics({"train/loss": 0.1}, step=3)
    second = tracker.ship(tmp_path)
    assert second.run_id == first.run_id
    assert len(client.get_metric_history(first.run_id, "train/loss")) == 4


def test_forgetting_what_was_shipped_doubles_nothing(
    tracker: Tracker, client: Any, run: Run, tmp_path: Path
) -> None:
    first = tracker.ship(tmp_path)
    (tmp_path / "tracking" / "shipped.json").unlink()
    second = tracker.ship(tmp_path)
    assert second.run_id == first.run_id
    assert len(client.get_metric_history(first.run_id, "train/loss")) == 3


def test_a_later_attempt_goes_on_in_the_same_run(
    tracker: Tracker, client: Any, run: Run, tmp_path: Path
) -> None:
    run.end("FAILED")
    first = tracker.ship(tmp_path)
    run.begin(experiment="zoo/train", name="bio", parameters={"rank": 8, "micro": 1}, tags={"zoo.attempt": 2})
    second = tracker.ship(tmp_path)
    found = client.get_run(first.run_id)
    assert second.run_id == first.run_id
    assert found.info.status == "RUNNING"
    assert found.data.params == {"rank": "8", "micro": "1"}


def test_more_metrics_than_fit_one_request_all_arrive(tracker: Tracker, client: Any, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(experiment="zoo/eval", name="bio", parameters={}, tags={})
    for step in range(700):
        run.metrics({"a": step, "b": step, "c": step}, step=step)
    shipment = tracker.ship(tmp_path)
    assert len(client.get_metric_history(shipment.run_id, "c")) == 700


def test_what_a_dead_server_did_not_take_is_shipped_later(
    tracker: Tracker, client: Any, run: Run, store: Path, tmp_path: Path
) -> None:
    dead = Tracker(uri=DEAD_SERVER, artifact_folder=store / "artifacts")
    with pytest.raises(TrackingUnavailable, match=r"MLflow at http://127.0.0.1:9 did not accept the run"):
        dead.ship(tmp_path)
    assert is_pending(tmp_path, store=dead.store)
    shipment = tracker.ship(tmp_path)
    assert len(client.get_metric_history(shipment.run_id, "train/loss")) == 3


def test_no_password_of_the_address_is_in_a_refusal(store: Path, run: Run, tmp_path: Path) -> None:
    url = DEAD_SERVER.replace("://", "://zoo:s3cret@")
    dead = Tracker(uri=url, artifact_folder=store / "artifacts")
    with pytest.raises(TrackingUnavailable, match=r"API request to http://127\.0\.0\.1:9/") as refused:
        dead.ship(tmp_path)
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in shipped(tmp_path, store=dead.store).reason


def test_a_second_run_that_a_slow_server_made_late_is_deleted(
    tracker: Tracker, client: Any, run: Run, tmp_path: Path
) -> None:
    first = tracker.ship(tmp_path)
    experiment_id = client.get_run(first.run_id).info.experiment_id
    twin = client.create_run(experiment_id, tags={"zoo.spool": first.spool_id})
    run.end("FINISHED")
    assert tracker.ship(tmp_path).run_id == first.run_id
    assert client.get_run(twin.info.run_id).info.lifecycle_stage == "deleted"
    assert client.get_run(first.run_id).info.lifecycle_stage == "active"


def test_a_store_that_was_set_up_anew_gets_everything_again(
    tracker: Tracker, client: Any, run: Run, tmp_path: Path
) -> None:
    *_, last = read_lines(tmp_path, offset=0)
    keep_shipped(tmp_path, Shipment(store=tracker.store, run_id="0" * 32, offset=last.end_offset))
    run.metrics({"train/loss": 0.1}, step=3)
    shipment = tracker.ship(tmp_path)
    assert len(client.get_metric_history(shipment.run_id, "train/loss")) == 4


def test_a_spool_that_another_process_ships_can_be_passed_by(
    tracker: Tracker, run: Run, tmp_path: Path
) -> None:
    with (tmp_path / "tracking" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            tracker.ship(tmp_path, wait=False)
    assert is_pending(tmp_path, store=tracker.store)


def test_a_store_is_named_without_its_account() -> None:
    assert store_name("postgresql://zoo:secret@db/mlflow") == "postgresql://db/mlflow"
    assert store_name("sqlite:////home/zoo/mlflow.db") == "sqlite:////home/zoo/mlflow.db"


def test_names_like_paths_are_taken(tracker: Tracker, client: Any, run: Run, tmp_path: Path) -> None:
    run.metrics({"../x/loss": 1.0, "a//b": 2.0}, step=0)
    taken = client.get_run(tracker.ship(tmp_path).run_id).data.metrics
    assert (taken[tracking_name("../x/loss")], taken[tracking_name("a//b")]) == (1.0, 2.0)


def test_what_was_deleted_is_refused_with_a_reason_and_brought_back_on_request(
    store: Path, tracker: Tracker, client: Any, run: Run, tmp_path: Path
) -> None:
    run_id = tracker.ship(tmp_path).run_id
    experiment_id = client.get_run(run_id).info.experiment_id
    client.delete_run(run_id)
    client.delete_experiment(experiment_id)
    run.metrics({"train/loss": 0.5}, step=9)
    with pytest.raises(TrackingUnavailable, match="its experiment zoo/train was deleted"):
        tracker.ship(tmp_path)
    assert "zoo/train was deleted" in shipped(tmp_path, store=tracker.store).reason
    restoring = Tracker(uri=f"sqlite:///{store}/mlflow.db", artifact_folder=store / "artifacts", restore=True)
    assert restoring.ship(tmp_path).reason == ""
    assert client.get_run(run_id).data.metrics["train/loss"] == 0.5


def test_a_run_that_is_given_up_waits_no_more(tracker: Tracker, run: Run, tmp_path: Path) -> None:
    assert is_pending(tmp_path, store=tracker.store)
    discard_pending(tmp_path, store=tracker.store)
    assert not is_pending(tmp_path, store=tracker.store)


def test_pictures_follow_a_home_that_is_moved(store: Path, client: Any, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.copy(store / "mlflow.db", old / "mlflow.db")
    first = Run(old / "jobs" / "1")
    picture = tmp_path / "scores.png"
    picture.write_bytes(b"picture")
    first.begin(experiment="zoo/moved", name="bio", parameters={}, tags={})
    first.artifact(picture)
    first_id = (
        Tracker(uri=f"sqlite:///{old}/mlflow.db", artifact_folder=old / "mlflow-artifacts")
        .ship(old / "jobs" / "1")
        .run_id
    )
    old.rename(new)
    second = Run(new / "jobs" / "2")
    second.begin(experiment="zoo/moved", name="law", parameters={}, tags={})
    second.artifact(picture)
    moved = Tracker(uri=f"sqlite:///{new}/mlflow.db", artifact_folder=new / "mlflow-artifacts")
    second_id = moved.ship(new / "jobs" / "2").run_id
    assert not old.exists()
    for run_id in (first_id, second_id):
        artifacts = moved.connect().list_artifacts(run_id)
        assert [artifact.path for artifact in artifacts] == ["scores.png"]
