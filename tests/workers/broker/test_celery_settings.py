"""Celery's settings for each kind of broker: they give a connection, and RabbitMQ accepts it."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection

from registry.service import Registry
from registry.settings import Settings
from tests.workers.started_processes import CELERY, RELAY, running, wait_for_state, wait_until
from workers.broker.celery_settings import SOCKET_TIMEOUT_S, celery_settings
from workers.checks import broker
from workers.checks.findings import OK

#: Debian's script on PATH becomes another account, which may not write here; the one behind it stays.
RABBITMQ = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin") or shutil.which("rabbitmq-server")


def connection_to(url: str) -> Connection:
    app = Celery("zoo", set_as_current=False)
    app.conf.update(celery_settings(url))
    return app.connection_for_write()


def test_an_amqp_url_becomes_a_connection_with_its_time_limit() -> None:
    connection = connection_to("amqp://zoo:secret@rabbit:5673/jobs")
    # The arguments that kombu passes to the AMQP client, without connecting.
    known = connection.info()
    assert (known["transport"], known["hostname"], known["port"]) == ("amqp", "rabbit", 5673)
    assert (known["userid"], known["virtual_host"]) == ("zoo", "jobs")
    assert connection.transport_options == {"connect_timeout": SOCKET_TIMEOUT_S}
    assert connection.transport.driver_name == "py-amqp"


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:{port}//", "redis://127.0.0.1:{port}/0"])
def test_a_broker_that_is_not_there_is_given_up_at_once(url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with connection_to(url.format(port=port)) as connection, pytest.raises(Exception, match="refused"):
        connection.ensure_connection(max_retries=1, timeout=1)


@pytest.mark.parametrize("url", ["amqp://rabbit//", "redis://valkey/0"])
def test_wake_up_messages_are_json_acknowledged_early_and_wait_behind_no_job(
    url: str,
) -> None:
    settings = celery_settings(url)
    assert (settings["accept_content"], settings["task_acks_late"]) == (["json"], False)
    assert settings["worker_disable_prefetch"] is url.startswith("redis")
    assert settings["worker_prefetch_multiplier"] == settings["worker_concurrency"] == 1


@pytest.mark.processes
@pytest.mark.skipif(
    RABBITMQ is None and "CI" not in os.environ, reason="needs a program: apt-get install rabbitmq-server"
)
def test_a_message_of_rabbitmq_starts_a_job(settings: Settings, tmp_path: Path) -> None:
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            ports.append(probe.getsockname()[1])
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "RABBITMQ_NODENAME": f"zoo-{secrets.token_hex(4)}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(ports[0]),
        "RABBITMQ_DIST_PORT": str(ports[1]),
        "RABBITMQ_MNESIA_BASE": str(tmp_path / "mnesia"),
        "RABBITMQ_LOG_BASE": str(tmp_path / "logs"),
    }
    assert RABBITMQ is not None, "rabbitmq-server is not installed"
    with subprocess.Popen([RABBITMQ], env=environment, stdout=sys.stderr, start_new_session=True) as server:
        try:
            served = replace(settings, broker_url=f"amqp://guest:guest@127.0.0.1:{ports[0]}//")
            wait_until(
                lambda: server.poll() is not None or _accepts(ports[0]), what="RabbitMQ takes connections"
            )
            with Registry.open(served) as registry, running(RELAY, served), running(CELERY, served):
                job = registry.jobs.submit("train", {"name": "bio"}).id
                assert wait_for_state(registry, job, "succeeded", "failed").fence == 1
            assert [finding.state for finding in broker.check(served)] == [OK]
        finally:
            os.killpg(server.pid, 15)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
