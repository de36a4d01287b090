"""`zoo runs`: what waits for MLflow is listed and shipped by hand."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry.errors import JobNotFound
from workers.commands.runs import command
from workers.errors import TrackingUnavailable
from workers.tracking.spool import Run

pytestmark = pytest.mark.processes

DEAD_SERVER = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    for job in ("2", "10"):
        run = Run(tmp_path / "jobs" / job)
        run.begin(experiment="zoo/train", name="bio", parameters={}, tags={})
        run.end("FINISHED")
        run.close()
    (tmp_path / "jobs" / "11").mkdir()


def test_what_a_dead_server_does_not_take_is_named_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD_SERVER)
    answer = CliRunner().invoke(command, ["ship", "-q"])
    assert isinstance(answer.exception, TrackingUnavailable)
    assert answer.stdout.split() == ["2", "10"]
    assert f"MLflow at {DEAD_SERVER} did not accept the run" in str(answer.exception)
    listed = json.loads(CliRunner().invoke(command, ["ls", "--json"]).stdout)
    assert [row["job"] for row in listed] == ["2", "10", "11"]
    assert listed[0]["pending_bytes"] == listed[1]["pending_bytes"] > 100
    assert (listed[2]["pending_bytes"], listed[2]["run_id"]) == (0, None)
    assert CliRunner().invoke(command, ["ls", "--pending", "-q"]).stdout.split() == ["2", "10"]


def test_a_run_is_given_up_by_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", DEAD_SERVER)
    assert CliRunner().invoke(command, ["discard", "10", "-q"]).stdout.split() == ["10"]
    assert CliRunner().invoke(command, ["ls", "--pending", "-q"]).stdout.split() == ["2"]
    assert isinstance(CliRunner().invoke(command, ["discard", "../2"]).exception, JobNotFound)


def test_where_tracking_is_off_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    answer = CliRunner().invoke(command, ["ship", "-q"])
    assert "MLFLOW_TRACKING_URI is 'none'; set it to the MLflow" in str(answer.exception)
