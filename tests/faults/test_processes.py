"""Workers are told to quit, or are frozen for longer than their lease: one effect, no job lost."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from registry.service import Registry
from registry.settings import Settings
from tests.brokers import ValkeyServer
from tests.faults.chained import BASE, undisturbed
from tests.registry.folders import write_base
from tests.services import settings_for
from tests.workers.started_processes import (
    CELERY,
    POLLING,
    command_line,
    descendants,
    job_processes,
    running,
    send,
    wait_for_state,
    wait_until,
)
from workers.attempts.runner import job_folder

# Short leases measure time.
pytestmark = pytest.mark.alone

#: A process may be frozen inside a transaction here, and SQLite's write lock never expires.
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.mark.parametrize("kind", [POLLING, CELERY], ids=["polling", "celery"])
def test_sigquit_in_mid_job_loses_no_job_and_leaves_no_job_process(
    kind: tuple[str, ...], settings: Settings, valkey: ValkeyServer
) -> None:
    served = replace(settings, broker_url=valkey.url) if kind is CELERY else settings
    with Registry.open(settings) as registry:
        job = registry.jobs.submit("train", {"name": "bio"}).id
        with running(kind, served, TEST_HANDLER="wait_to_be_stopped") as worker:
            wait_until((job_folder(registry, job) / "pid").exists, what="the job runs")
            below = descendants(worker.pid)
            worker.send_signal(signal.SIGQUIT)
            assert worker.wait(timeout=120) == 0
            wait_until(lambda: not any(map(command_line, below)), what="nothing of the worker is left")
        # The worker itself has requeued the job, before any other process could notice its end.
        assert registry.jobs.get(job).state == "queued"
        with running(POLLING, settings):
            ended = wait_for_state(registry, job, "succeeded", "failed")
        assert (ended.state, ended.attempt, ended.fence) == ("succeeded", 1, 2)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_pool_that_fails_jobs_on_sigquit_is_refused(
    settings: Settings, valkey: ValkeyServer, tmp_path: Path, pool: str
) -> None:
    served, log = replace(settings, broker_url=valkey.url), tmp_path / "log"
    with running((*CELERY, "--pool", pool), served, log=log) as worker:
        assert worker.wait(timeout=120) == 1
    assert "leave --pool out" in log.read_text()


@on_postgresql
def test_a_job_process_is_gone_before_its_frozen_supervisors_job_is_taken_over(
    database_url: str, tmp_path: Path
) -> None:
    brief = replace(settings_for(database_url, home=tmp_path), lease_s=6.0)
    with Registry.open(brief) as registry:
        job = registry.jobs.submit("train", {"name": "bio"}).id
        with running(POLLING, brief, TEST_HANDLER="wait_to_be_stopped") as worker:
            wait_until((job_folder(registry, job) / "pid").exists, what="the job runs")
            worker.send_signal(signal.SIGSTOP)
            with running(POLLING, brief, TEST_HANDLER="look_for_the_first"):
                ended = wait_for_state(registry, job, "succeeded", "failed")
            worker.send_signal(signal.SIGCONT)
            worker.send_signal(signal.SIGTERM)
            # Its later writes carry an old fence.
            assert worker.wait(timeout=120) == 0
        assert (ended.state, ended.fence, ended.lost_attempts) == ("succeeded", 2, 1)
        assert ended.outcome == {"first_runs": False}
        assert registry.jobs.get(job) == ended


@on_postgresql
def test_a_machine_that_stood_still_wakes_up_without_an_effect(database_url: str, tmp_path: Path) -> None:
    brief = replace(settings_for(database_url, home=tmp_path), lease_s=6.0)
    with Registry.open(brief) as registry:
        registry.bases.register(write_base(tmp_path / "base"), name=BASE, source="hub:zoo/pico@abc")
        job = registry.jobs.submit("train", {"name": "chained"}).id
        with running(POLLING, brief, TEST_HANDLER="chain") as worker:
            wait_until((job_folder(registry, job) / "checkpoint.json").exists, what="a checkpoint")
            (job_process,) = job_processes(worker.pid)
            for pid in (job_process, worker.pid):
                send(pid, signal.SIGSTOP)
            with running(POLLING, brief, TEST_HANDLER="chain"):
                ended = wait_for_state(registry, job, "succeeded", "failed")
            for pid in (job_process, worker.pid):
                send(pid, signal.SIGCONT)
            wait_until(lambda: not command_line(job_process), what="the first job process has ended")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=120) == 0
        assert (ended.state, ended.fence) == ("succeeded", 2)
        assert ended.outcome["digest"] == undisturbed("chained")
        assert [adapter["reference"] for adapter in registry.adapters.list()] == [ended.outcome["adapter"]]
        assert registry.jobs.get(job) == ended
