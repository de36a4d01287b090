"""Real workers, with and without a broker: the jobs they run, how they end, and what others take over."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry.service import Registry
from registry.settings import Settings
from tests.brokers import ValkeyServer
from tests.services import settings_for
from tests.workers.started_processes import (
    CELERY,
    POLLING,
    RELAY,
    command_line,
    descendants,
    end_tree,
    job_processes,
    running,
    send,
    start,
    wait_for_state,
    wait_until,
)
from workers.attempts.runner import job_folder

pytestmark = pytest.mark.processes

#: By name: a worker that polls the database, and one that waits for wake-up messages.
WORKERS = {"polling": POLLING, "celery": CELERY}
#: As users start one: with a broker where one is configured.
ZOO_WORKER = (sys.executable, "-m", "zoo", "worker", "--queue", "gpu", "--gpu", "0")


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def settings(migrated_sqlite: Path, tmp_path: Path) -> Settings:
    database = shutil.copy(migrated_sqlite, tmp_path / "zoo.db")
    return replace(settings_for(f"sqlite:///{database}", home=tmp_path / "home"), lease_s=30.0)


@pytest.fixture(params=WORKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def served(kind: str, settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Settings with a broker where the worker needs one."""
    if kind == "polling":
        return settings
    server: ValkeyServer = request.getfixturevalue("valkey")
    server.client().flushall()
    return replace(settings, broker_url=server.url)


def queued(registry: Registry, **placement: object) -> int:
    return registry.jobs.submit("train", {"name": "bio"}, **placement).id  # type: ignore[arg-type]


def at_work(registry: Registry, job_id: int) -> None:
    """Wait until the job's code runs."""
    wait_until((job_folder(registry, job_id) / "pid").exists, what=f"job {job_id} starts")


def test_queued_jobs_are_run_and_the_worker_is_listed(kind: str, served: Settings, tmp_path: Path) -> None:
    with (
        Registry.open(served) as registry,
        running(WORKERS[kind], served, log=tmp_path / "log") as process,
    ):
        jobs = [queued(registry) for _ in range(3)]
        ended = [wait_for_state(registry, job, "succeeded") for job in jobs]
        assert [(job.attempt, job.fence) for job in ended] == [(1, 1)] * 3
        (worker,) = registry.workers.list()
        assert worker.process_id == process.pid
        assert all(job.worker == worker.name for job in ended)
        # If any import had loaded torch, it would be mapped.
        for pid in (process.pid, *descendants(process.pid)):
            assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert registry.workers.list() == ()


def test_sigterm_saves_a_checkpoint_and_gives_the_job_back_unspent(kind: str, served: Settings) -> None:
    with Registry.open(served) as registry:
        job = queued(registry)
        with running(WORKERS[kind], served, TEST_HANDLER="wait_to_be_stopped") as process:
            at_work(registry, job)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        given_back = registry.jobs.get(job)
        assert (given_back.state, given_back.attempt, given_back.lost_attempts) == ("queued", 0, 0)
        assert given_back.message == "its worker was shut down"
        assert (job_folder(registry, job) / "checkpoint").read_text() == "saved"
        with running(POLLING, replace(served, broker_url=None)):
            again = wait_for_state(registry, job, "succeeded")
        assert (again.attempt, again.fence) == (1, 2)


@pytest.mark.alone
def test_a_killed_worker_leaves_no_job_process_and_another_takes_over_in_2_s(
    kind: str, served: Settings
) -> None:
    with Registry.open(served) as registry:
        job = queued(registry)
        first = start(WORKERS[kind], served, TEST_HANDLER="wait_to_be_stopped")
        try:
            at_work(registry, job)
            below = descendants(first.pid)
            # A second worker is idle.
            with running(WORKERS[kind], served, TEST_HANDLER="wait_to_be_stopped") as second:
                wait_until(lambda: len(registry.workers.list()) == 2, what="the second worker is listed")
                first.kill()
                first.wait()
                noticed_s = wait_until(lambda: registry.jobs.get(job).fence == 2, what="the take-over")
                taken = registry.jobs.get(job)
                assert (taken.state, taken.lost_attempts, taken.attempt) == ("running", 1, 1)
                # Two seconds are the promise; the rest is room for a busy machine.
                assert noticed_s < 6
                wait_until(lambda: not any(map(command_line, below)), what="nothing of the first is left")
                wait_until(
                    lambda: [worker.process_id for worker in registry.workers.list()] == [second.pid],
                    what="the first is off the list",
                )
        finally:
            end_tree(first)


def test_a_cancel_reaches_a_running_and_a_queued_job(kind: str, served: Settings) -> None:
    with Registry.open(served) as registry:
        job = queued(registry)
        with running(WORKERS[kind], served, TEST_HANDLER="wait_to_be_stopped"):
            at_work(registry, job)
            registry.jobs.request_cancel(job)
            ended = wait_for_state(registry, job, "cancelled", timeout_s=60)
            assert (job_folder(registry, job) / "checkpoint").exists()
            assert ended.reason == "cancelled"
        waiting = queued(registry)
        assert registry.jobs.request_cancel(waiting).state == "cancelled"


def test_jobs_go_by_priority_and_only_to_workers_of_their_queue(settings: Settings) -> None:
    with Registry.open(settings) as registry:
        jobs = {
            "ordinary": queued(registry),
            "urgent": queued(registry, priority=5),
            "for a gpu": queued(registry, queue="gpu"),
        }
        with running(POLLING, settings):
            for name in ("ordinary", "urgent"):
                wait_for_state(registry, jobs[name], "succeeded")
        started = {name: registry.jobs.get(job).started_at for name, job in jobs.items()}
        assert started["for a gpu"] is None
        assert started["urgent"] < started["ordinary"]  # type: ignore[operator]


def test_a_second_worker_of_a_gpu_ends_at_once_and_costs_no_job(
    kind: str, served: Settings, tmp_path: Path
) -> None:
    command = (*WORKERS[kind], *(("gpu",) if kind == "polling" else ("--queues", "gpu")))
    slot = {"CUDA_VISIBLE_DEVICES": "0", "TMPDIR": str(tmp_path), "TEST_HANDLER": "wait_to_be_stopped"}
    with Registry.open(served) as registry:
        job = queued(registry, queue="gpu")
        with running(command, served, log=tmp_path / "log of others", **slot) as first:
            at_work(registry, job)
            waiting = queued(registry, queue="gpu")
            with running(ZOO_WORKER, served, log=tmp_path / "log", TMPDIR=str(tmp_path)) as second:
                assert second.wait(timeout=60) == 5
            said = (
                f"error ZOO-E417: another worker of this machine, process {first.pid}, serves GPU 0 already"
            )
            assert said in (tmp_path / "log").read_text()
            untouched = registry.jobs.get(waiting)
            assert (untouched.state, untouched.fence) == ("queued", 0)
            registry.jobs.request_cancel(waiting)  # lest the next worker takes that one first
            end_tree(first)
        with running(command, served, log=tmp_path / "log of others", **slot):
            wait_until(lambda: registry.jobs.get(job).fence == 2, what="the next worker takes over")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_end_has_not_failed(
    valkey: ValkeyServer, settings: Settings, tmp_path: Path, number: signal.Signals
) -> None:
    served = replace(settings, broker_url=valkey.url)
    with Registry.open(served) as registry, running(ZOO_WORKER, served, TMPDIR=str(tmp_path)) as worker:
        wait_until(lambda: len(registry.workers.list()) == 1, what="the worker is there")
        worker.send_signal(number)
        assert worker.wait(timeout=60) == 0


def test_a_wiped_broker_costs_no_job(valkey: ValkeyServer, settings: Settings) -> None:
    served = replace(settings, broker_url=valkey.url)
    with Registry.open(served) as registry, running(CELERY, served):
        first = queued(registry)
        wait_for_state(registry, first, "succeeded")
        jobs = [queued(registry) for _ in range(3)]
        valkey.kill()
        valkey.start()
        for job in jobs:
            assert wait_for_state(registry, job, "succeeded").fence == 1


def test_a_worker_goes_on_while_the_broker_is_away(valkey: ValkeyServer, settings: Settings) -> None:
    served = replace(settings, broker_url=valkey.url)
    with Registry.open(served) as registry, running(CELERY, served) as worker:
        wait_until(lambda: len(registry.workers.list()) == 1, what="the worker is there")
        valkey.kill()
        try:
            job = queued(registry)
            ended = wait_for_state(registry, job, "succeeded", timeout_s=60)
            assert ended.worker == registry.workers.list()[0].name
            assert worker.poll() is None
        finally:
            valkey.start()


def test_a_worker_that_starts_while_its_broker_is_away_takes_jobs(settings: Settings) -> None:
    served = replace(settings, broker_url="redis://127.0.0.1:1/0")
    with Registry.open(served) as registry, running(CELERY, served, TEST_PATIENCE_S="1") as worker:
        job = queued(registry)
        ended = wait_for_state(registry, job, "succeeded", timeout_s=60)
        assert ended.worker == registry.workers.list()[0].name
        worker.terminate()
        assert worker.wait(timeout=30) == 0


def test_a_broker_that_hangs_delays_no_submission(valkey: ValkeyServer, settings: Settings) -> None:
    served = replace(settings, broker_url=valkey.url)
    with Registry.open(served) as registry, running(RELAY, served) as relay:
        valkey.client().flushall()
        valkey.freeze()
        try:
            started = time.monotonic()
            for _ in range(20):
                queued(registry)
            # Each call to a broker that hangs takes its socket timeout, 5 s.
            assert time.monotonic() - started < 20
            assert relay.poll() is None
        finally:
            valkey.thaw()
        # The relay comes through once the broker is back.
        wait_until(lambda: valkey.client().llen("zoo:cpu") == 20, what="the messages")
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(timeout=60) == 0


def test_hints_that_come_many_times_start_a_job_once(valkey: ValkeyServer, settings: Settings) -> None:
    served = replace(settings, broker_url=valkey.url)
    client = valkey.client()
    client.flushall()
    with Registry.open(served) as registry:
        job = queued(registry)
        with running(RELAY, served):
            wait_until(lambda: client.llen("zoo:cpu") == 1, what="a wake-up message")
        wake_up = client.lindex("zoo:cpu", 0)
        for _ in range(50):
            client.lpush("zoo:cpu", wake_up)
        with running(CELERY, served, TEST_HANDLER="outlast_the_lease"), running(CELERY, served):
            wait_for_state(registry, job, "succeeded")
            wait_until(lambda: client.llen("zoo:cpu") == 0, what="the messages are consumed")
        kinds = [event.kind for event in registry.jobs.events(job)]
        assert kinds == ["submitted", "claimed", "succeeded"]


@pytest.mark.parametrize("message", [b"\x00garbage{", b"5", b"[" * 20_000])
def test_a_malformed_message_costs_no_job(valkey: ValkeyServer, settings: Settings, message: bytes) -> None:
    served = replace(settings, broker_url=valkey.url)
    valkey.client().flushall()
    valkey.client().lpush("zoo:cpu", message)
    with Registry.open(served) as registry:
        job = queued(registry)
        # As a service manager does: a worker that ends is started again.
        workers: list[subprocess.Popen[bytes]] = []
        try:

            def done() -> bool:
                if not workers or workers[-1].poll() is not None:
                    workers.append(start(CELERY, served))
                return registry.jobs.get(job).state == "succeeded"

            wait_until(done, what="the job ends")
            assert len(workers) <= 2
        finally:
            for worker in workers:
                end_tree(worker)


def test_every_process_of_a_worker_may_be_killed_alone(valkey: ValkeyServer, settings: Settings) -> None:
    served = replace(settings, broker_url=valkey.url)
    # Patience is so long that the main process never takes the job: each attempt is the pool's.
    with (
        Registry.open(served) as registry,
        running(CELERY, served, TEST_HANDLER="wait_to_be_stopped", TEST_PATIENCE_S="3600") as worker,
    ):
        job = queued(registry)
        at_work(registry, job)
        (job_process,) = job_processes(worker.pid)
        send(job_process, signal.SIGKILL)
        wait_until(lambda: registry.jobs.get(job).fence == 2, what="a second attempt after the kill")
        spent = registry.jobs.get(job)
        assert (spent.attempt, spent.lost_attempts) == (2, 0)
        wait_until(lambda: bool(job_processes(worker.pid)), what="the second job process")
        (pool,) = [pid for pid in descendants(worker.pid) if pid not in job_processes(worker.pid)]
        send(pool, signal.SIGKILL)
        wait_until(lambda: registry.jobs.get(job).fence == 3, what="a third attempt after the pool's child")
        lost = registry.jobs.get(job)
        assert (lost.attempt, lost.lost_attempts) == (2, 1)
        registry.jobs.request_cancel(job)
        wait_for_state(registry, job, "cancelled")
