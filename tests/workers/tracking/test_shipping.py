"""Jobs and MLflow: a run arrives once, and an MLflow that is down or hangs fails no job."""

import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.entities import Job
from registry.service import Registry
from registry.settings import Settings
from workers.attempts.runner import job_folder, run_here
from workers.tracking.shipping import Shipper, pending_folders
from workers.tracking.spool import Run, is_pending, shipped
from workers.worker.identity import WorkerIdentity
from workers.worker.idle_shipping import IdleShipping, is_idle

pytestmark = pytest.mark.processes

HANDLERS = {"train": "tests.workers.handlers:succeed"}
DEAD_SERVER = "http://127.0.0.1:9"


def tracked(registry: Registry, uri: str) -> Registry:
    """The same registry, with the tracking store at `uri`."""
    registry.settings = replace(registry.settings, mlflow_tracking_uri=uri)
    return registry


def ship_once(settings: Settings, folder: Path) -> tuple[bool, list[str], list[str]]:
    runs: list[str] = []
    complaints: list[str] = []
    shipper = Shipper(settings, [folder], on_run=runs.append, on_unavailable=complaints.append)
    return shipper.finish(timeout_s=90), runs, complaints


def found_runs(uri: str, experiment: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    wanted = client.get_experiment_by_name(experiment)
    return [] if wanted is None else list(client.search_runs([wanted.experiment_id]))


@pytest.mark.filterwarnings("ignore")  # of MLflow's import, between it and its dependencies
def test_a_dead_server_fails_no_job_and_what_it_missed_is_shipped_later_once(
    registry: Registry, job: Job
) -> None:
    events: list[tuple[str, Mapping[str, Any]]] = []
    ended = run_here(
        tracked(registry, DEAD_SERVER),
        job.id,
        handlers=HANDLERS,
        on_event=lambda kind, payload: events.append((kind, payload)),
    )
    assert (ended.state, ended.run_id) == ("succeeded", None)
    assert [kind for kind, _ in events] == ["tracking_unavailable"]
    assert [event.kind for event in registry.jobs.events(job.id)].count("tracking_unavailable") == 1
    folder = job_folder(registry, job.id)
    assert pending_folders(registry.settings) == (folder,)

    uri = f"sqlite:///{registry.settings.home / 'mlflow.db'}"
    settings = replace(registry.settings, mlflow_tracking_uri=uri)
    assert ship_once(settings, folder)[0]
    assert not is_pending(folder, store=uri)
    again, runs, _ = ship_once(settings, folder)
    (run,) = found_runs(uri, "zoo/train")
    assert (again, runs) == (True, [run.info.run_id])
    assert run.info.run_id == shipped(folder, store=uri).run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", f"train-{job.id}-bio")
    assert run.data.metrics.pop("seconds/total") > 0
    assert run.data.metrics["train/loss"] == 0.5
    assert run.data.params["rank"] == "8"
    assert run.data.tags["zoo.job"] == str(job.id)

    # The store is there now, so a second job shows the ordinary way on its row.
    second = registry.jobs.submit(job.kind, {**job.spec, "name": "law"})
    ended = run_here(tracked(registry, uri), second.id, handlers=HANDLERS)
    assert ended.run_id in {found.info.run_id for found in found_runs(uri, "zoo/train")}


@pytest.mark.filterwarnings("ignore")  # of MLflow's import, between it and its dependencies
def test_a_worker_ships_what_is_pending_while_it_has_no_job(registry: Registry, job: Job) -> None:
    uri = f"sqlite:///{registry.settings.home / 'mlflow.db'}"
    identity = WorkerIdentity(name="box/boot/7/1", process_id=7, queues=("cpu",), gpu=None)
    folder = job_folder(registry, 999)
    folder.mkdir(parents=True)
    run = Run(folder)
    run.begin(experiment="zoo/train", name="bio", parameters={}, tags={})
    run.end("FINISHED")
    run.close()
    assert registry.jobs.claim(job.id, owner="me", worker=identity.name, lease_s=60) is not None
    assert not is_idle(registry, identity)
    registry.jobs.finish(job.id, fence=1, state="succeeded", reason="ok")
    assert is_idle(registry, identity)
    with IdleShipping(tracked(registry, uri), identity, every_s=0.1):
        deadline = time.monotonic() + 90
        while is_pending(folder, store=uri):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_server_that_hangs_delays_no_longer_than_the_timeout(settings: Settings, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.begin(experiment="zoo/train", name="bio", parameters={}, tags={})
    run.close()
    complaints: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        shipper = Shipper(
            replace(settings, mlflow_tracking_uri=uri),
            [tmp_path],
            on_run=lambda _: None,
            on_unavailable=complaints.append,
        )
        started = time.monotonic()
        assert not shipper.finish(timeout_s=0.5)
    assert time.monotonic() - started < 5
    assert complaints == ["MLflow did not accept the run within 0.5 s"]
    assert is_pending(tmp_path, store=uri)
