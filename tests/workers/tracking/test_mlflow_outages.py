"""An MLflow server is stopped, restarted or frozen: no job fails, and nothing is missing or doubled."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from registry.entities import Job
from registry.service import Registry
from tests.mlflow_server import LossyLine, MlflowServer
from workers.attempts.runner import job_folder, run_here
from workers.commands.runs import command
from workers.errors import TrackingUnavailable
from workers.tracking.mlflow_store import Tracker
from workers.tracking.shipping import MLFLOW_CLIENT_ENV, pending_folders
from workers.tracking.spool import Run, is_pending, shipped

HANDLERS = {"train": "tests.workers.handlers:measure_until_stopped"}

pytestmark = [
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore"),
]  # of MLflow's import, between it and its dependencies


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def tracked(registry: Registry, server: MlflowServer) -> Registry:
    registry.settings = replace(registry.settings, mlflow_tracking_uri=server.url)
    return registry


@pytest.fixture
def client(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    from mlflow.tracking import MlflowClient

    for name, value in MLFLOW_CLIENT_ENV.items():
        monkeypatch.setenv(name, value)
    return MlflowClient(tracking_uri=server.url)


def the_run(client: Any, folder: Path, store: str) -> Any:
    """The only run of a job's spool."""
    spool_id = shipped(folder, store=store).spool_id
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, filter_string=f"tags.`zoo.spool` = '{spool_id}'")
    return run


def assert_complete(client: Any, run: Any, *, steps: int, to: Path) -> None:
    """Check that MLflow has each step's metric once, and the last version of each artifact once."""
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(steps))
    assert [file.path for file in client.list_artifacts(run.info.run_id, "report")] == ["report/report.txt"]
    found = client.download_artifacts(run.info.run_id, "report/report.txt", str(to))
    assert Path(found).read_text() == "final"
    assert run.info.status == "FINISHED"


def run_beside(registry: Registry, job: Job, meanwhile: Callable[[Path], None]) -> tuple[Job, float]:
    """Run a job that measures until `meanwhile` returns; the ended job, and the seconds that its end took."""
    folder = job_folder(registry, job.id)
    told_at: list[float] = []

    def disturb() -> None:
        while not (folder / "measuring").exists():
            time.sleep(0.02)
        try:
            meanwhile(folder)
        finally:
            told_at.append(time.monotonic())
            (folder / "enough").touch()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    ended = run_here(registry, job.id, handlers=HANDLERS)
    took_s = time.monotonic() - told_at[0]
    disturber.join()
    return ended, took_s


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def complained(registry: Registry, job: Job) -> bool:
    return "tracking_unavailable" in [event.kind for event in registry.jobs.events(job.id)]


def test_a_server_killed_and_restarted_in_mid_run_misses_and_doubles_nothing(
    tracked: Registry, job: Job, server: MlflowServer, client: Any, tmp_path: Path
) -> None:
    def crash(folder: Path) -> None:
        wait_for(lambda: shipped(folder, store=server.url).run_id is not None)
        server.kill()
        wait_for(lambda: complained(tracked, job))
        server.start()

    ended, _ = run_beside(tracked, job, crash)
    assert ended.state == "succeeded"
    by_hand = CliRunner(env={"ZOO_HOME": str(tracked.settings.home), "MLFLOW_TRACKING_URI": server.url})
    assert by_hand.invoke(command, ["ship"]).exit_code == 0
    assert pending_folders(tracked.settings) == ()
    run = the_run(client, job_folder(tracked, job.id), server.url)
    assert run.info.run_id == ended.run_id
    assert_complete(client, run, steps=ended.outcome["steps"], to=tmp_path)


def test_a_frozen_server_costs_a_moment_and_the_next_job_ships_what_it_missed(
    tracked: Registry, job: Job, server: MlflowServer, client: Any, tmp_path: Path
) -> None:
    server.freeze()
    try:
        ended, took_s = run_beside(tracked, job, lambda _: wait_for(lambda: complained(tracked, job)))
    finally:
        server.thaw()
    assert ended.state == "succeeded"
    assert took_s < 8
    folder = job_folder(tracked, job.id)
    assert pending_folders(tracked.settings) == (folder,)

    second = tracked.jobs.submit(job.kind, {**job.spec, "name": "law"})
    ended_too, _ = run_beside(
        tracked, second, lambda _: wait_for(lambda: not is_pending(folder, store=server.url))
    )
    for each in (ended, ended_too):
        run = the_run(client, job_folder(tracked, each.id), server.url)
        assert run.data.tags["zoo.job"] == str(each.id)
        assert_complete(client, run, steps=each.outcome["steps"], to=tmp_path)


def test_repeatedly_lost_answers_leave_one_run_with_everything_once(
    server: MlflowServer, client: Any, tmp_path: Path
) -> None:
    line = LossyLine(server.port)
    run = Run(tmp_path)
    run.begin(experiment="zoo/lossy", name="bio", parameters={"rank": 8}, tags={"zoo.job": 1})
    for step in range(30):
        run.metrics({"train/loss": 1.0}, step=step)
    (tmp_path / "report.txt").write_text("final")
    run.artifact(tmp_path / "report.txt", folder="report")
    run.end("FINISHED")
    tracker = Tracker(uri=line.url, artifact_folder=tmp_path)
    while is_pending(tmp_path, store=line.url):
        line.answers_left = line.lost
        with contextlib.suppress(TrackingUnavailable):
            tracker.ship(tmp_path)
    line.close()
    assert line.lost >= 6  # of parameters, tags, metrics, artifact and end at least
    assert_complete(client, the_run(client, tmp_path, line.url), steps=30, to=tmp_path)
