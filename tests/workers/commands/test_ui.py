"""`zoo ui`: what MLflow's server is started with, and where it is not started at all."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry.settings import Settings
from workers.commands.ui import command, server_command, server_environment
from workers.tracking.shipping import NO_TRACKING


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_the_server_is_reached_by_its_own_names_on_this_machine_alone(settings: Settings) -> None:
    uri = "sqlite:////zoo/mlflow.db"
    arguments = server_command(replace(settings, mlflow_tracking_uri=uri), port=5001)
    assert option(arguments, "--host") == "127.0.0.1"
    assert option(arguments, "--allowed-hosts") == "127.0.0.1:5001,localhost:5001"
    assert option(arguments, "--cors-allowed-origins") == "http://127.0.0.1:5001,http://localhost:5001"
    assert option(arguments, "--backend-store-uri") == uri
    assert option(arguments, "--default-artifact-root").startswith("file:///")


def test_the_server_runs_no_jobs_and_no_code_of_models() -> None:
    environ = server_environment({"PATH": "/bin", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true"})
    assert environ == {
        "PATH": "/bin",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def test_runs_on_a_server_are_looked_at_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    answer = CliRunner().invoke(command, [])
    assert (answer.exit_code, answer.stdout) == (
        0,
        "runs are kept by an MLflow server: open http://mlflow.example:5000\n",
    )


def test_without_tracking_there_is_nothing_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NO_TRACKING)
    answer = CliRunner().invoke(command, [])
    assert answer.exit_code == 2
    assert "unset it" in answer.stderr
