"""A broker loses messages, restarts, is full or delivers foreign messages: each job still ends once."""

import base64
import json
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.service import Registry
from registry.settings import Settings
from tests.brokers import ValkeyServer
from tests.workers.started_processes import (
    CELERY,
    RELAY,
    end_tree,
    running,
    start,
    wait_for_state,
    wait_until,
)
from workers.attempts.runner import job_folder

_QUEUE = "zoo:cpu"


@pytest.fixture
def served(settings: Settings, valkey: ValkeyServer) -> Settings:
    valkey.client().flushall()
    return replace(settings, broker_url=valkey.url)


def a_wake_up(served: Settings, registry: Registry, valkey: ValkeyServer) -> bytes:
    """A message as the relay publishes it, after a job was submitted."""
    registry.jobs.submit("train", {"name": "bio"})
    with running(RELAY, served):
        wait_until(lambda: valkey.client().llen(_QUEUE) == 1, what="a wake-up message")
    message: bytes = valkey.client().rpop(_QUEUE)
    return message


def wait_until_consumed(valkey: ValkeyServer) -> None:
    wait_until(lambda: valkey.client().llen(_QUEUE) == 0, what="the worker has taken every message")


def test_hints_that_die_with_their_worker_leave_no_job_waiting(
    served: Settings, valkey: ValkeyServer
) -> None:
    client = valkey.client()

    def fewer_than(count: int) -> Callable[[], bool]:
        return lambda: client.llen(_QUEUE) < count

    with Registry.open(served) as registry:
        wake_up = a_wake_up(served, registry, valkey)
        jobs = [1, *(registry.jobs.submit("train", {"name": "bio"}).id for _ in range(2))]
        for _ in range(3):
            # So many that the worker still consumes them when it dies, with one of them unacknowledged.
            client.lpush(_QUEUE, *[wake_up] * 500)
            waiting = client.llen(_QUEUE)
            worker = start(CELERY, served)
            try:
                wait_until(fewer_than(waiting), what="the worker consumes messages")
            finally:
                end_tree(worker)
            client.delete(_QUEUE)
        # Without the fallback, which polls the database: here only new messages help.
        with running(CELERY, served, TEST_PATIENCE_S="3600"):
            ended = [wait_for_state(registry, job, "succeeded", "failed") for job in jobs]
        assert {job.state for job in ended} == {"succeeded"}
        for job in jobs:
            assert [event.kind for event in registry.jobs.events(job)].count("succeeded") == 1


def test_a_broker_that_restarts_under_a_job_leaves_its_attempt_alone(
    served: Settings, valkey: ValkeyServer
) -> None:
    with Registry.open(served) as registry:
        job = registry.jobs.submit("train", {"name": "bio"}).id
        folder = job_folder(registry, job)
        with running(CELERY, served, TEST_HANDLER="measure_until_stopped"):
            wait_until((folder / "measuring").exists, what="the job runs")
            valkey.kill()
            valkey.start()
            own = {client["id"] for client in valkey.client().client_list()}
            wait_until(
                lambda: len({client["id"] for client in valkey.client().client_list()} - own) > 1,
                what="the worker has connected again",
            )
            (folder / "enough").touch()
            ended = wait_for_state(registry, job, "succeeded", "failed")
        assert (ended.state, ended.attempt, ended.fence, ended.lost_attempts) == ("succeeded", 1, 1, 0)


def test_a_full_broker_costs_no_job(served: Settings, valkey: ValkeyServer, tmp_path: Path) -> None:
    client, log = valkey.client(), tmp_path / "log"
    with Registry.open(served) as registry, running(CELERY, served, log=log) as worker:
        # A worker is listed before it has connected to the broker.
        wait_until(lambda: "ready." in log.read_text(), what="the worker has connected")
        client.config_set("maxmemory", 1)
        try:
            job = registry.jobs.submit("train", {"name": "bio"}).id
            wait_until(lambda: "OutOfMemory" in log.read_text(), what="the broker has refused a message")
        finally:
            client.config_set("maxmemory", 0)
        assert wait_for_state(registry, job, "succeeded", "failed").state == "succeeded"
        assert worker.poll() is None


def test_a_worker_takes_hints_again_after_twenty_restarts_of_the_broker(
    served: Settings, valkey: ValkeyServer
) -> None:
    with Registry.open(served) as registry:
        wake_up = a_wake_up(served, registry, valkey)
        with running(CELERY, served) as worker:
            wait_for_state(registry, 1, "succeeded")
            for number in range(20):
                valkey.kill()
                # Some restarts hit it while it connects, some while it waits to try again.
                time.sleep(number % 4 * 0.05)
                valkey.start()
            # The fallback takes jobs but consumes no messages; only a connected worker consumes these.
            valkey.client().lpush(_QUEUE, wake_up, wake_up)
            wait_until_consumed(valkey)
            again = registry.jobs.submit("train", {"name": "law"}).id
            assert wait_for_state(registry, again, "succeeded", "failed").fence == 1
            assert worker.poll() is None


class _Canary:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self._path), "w")


def _foreign(wake_up: bytes, kind: str, canary: Path) -> bytes:
    """The message with another content."""
    message = json.loads(wake_up)
    body, content_type, encoding = {
        "pickle": (pickle.dumps(_Canary(canary)), "application/x-python-serialize", "binary"),
        "yaml": (f"!!python/object/apply:os.mknod [{canary}]".encode(), "application/x-yaml", "utf-8"),
        "foreign": (b"[[], {}, {}]", "application/json", "utf-8"),
        "wrong arguments": (b'[[1, 2, 3], {"queue": "gpu"}, {}]', "application/json", "utf-8"),
        "unknown queue": (b'[["no such queue"], {}, {}]', "application/json", "utf-8"),
    }[kind]
    if kind == "foreign":
        message["headers"]["task"] = "os.system"
    message["body"] = base64.b64encode(body).decode()
    message["properties"]["body_encoding"] = "base64"
    return json.dumps({**message, "content-type": content_type, "content-encoding": encoding}).encode()


def test_messages_of_another_kind_run_no_code_and_cost_no_job(
    served: Settings, valkey: ValkeyServer, tmp_path: Path
) -> None:
    canary, kinds = tmp_path / "canary", ("pickle", "yaml", "foreign", "wrong arguments", "unknown queue")
    with Registry.open(served) as registry:
        wake_up = a_wake_up(served, registry, valkey)
        valkey.client().lpush(_QUEUE, *[_foreign(wake_up, kind, canary) for kind in kinds])
        with running(CELERY, served, log=tmp_path / "log") as worker:
            assert wait_for_state(registry, 1, "succeeded", "failed").fence == 1
            wait_until_consumed(valkey)
            again = registry.jobs.submit("train", {"name": "law"}).id
            assert wait_for_state(registry, again, "succeeded", "failed").fence == 1
            assert worker.poll() is None
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=120) == 0
    assert not canary.exists()
    said = (tmp_path / "log").read_text()
    assert all(part in said for part in ("ContentDisallowed", "unregistered task", "TypeError"))
