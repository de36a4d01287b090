"""`zoo doctor` on a broker that is healthy, missing, frozen, misconfigured or closed to this account."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from registry.settings import Settings
from tests.brokers import ValkeyServer
from tests.workers.findings import only, states
from workers.checks import broker
from workers.checks.findings import FAULT, OK, WARNING


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"), durable=True)
    yield server
    server.stop()


def with_broker(settings: Settings, url: str) -> Settings:
    return replace(settings, broker_url=url)


def test_one_that_is_set_up_well_is_healthy(settings: Settings, valkey: ValkeyServer) -> None:
    findings = list(broker.check(with_broker(settings, valkey.url)))
    assert states(findings) == [OK, OK, OK]
    assert "Valkey 9" in findings[0].finding
    assert str(urlsplit(valkey.url).password) not in str(findings)


def test_none_is_no_fault(settings: Settings) -> None:
    assert only(broker.check(settings)).state == OK


@pytest.mark.processes
def test_eviction_is_a_fault_and_no_append_only_file_a_warning(settings: Settings, tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path / "valkey")
    try:
        with server.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        _, eviction, persistence = broker.check(with_broker(settings, server.url))
    finally:
        server.stop()
    assert (eviction.state, persistence.state) == (FAULT, WARNING)
    assert "CONFIG SET maxmemory-policy noeviction" in str(eviction.fix)
    assert "CONFIG SET appendonly yes" in str(persistence.fix)


def test_a_wrong_password_is_reported_but_not_printed(settings: Settings, valkey: ValkeyServer) -> None:
    for account in (":wrong@", ""):
        url = f"redis://{account}127.0.0.1:{urlsplit(valkey.url).port}/0"
        found = only(broker.check(with_broker(settings, url)))
        assert (found.state, found.unreachable) == (FAULT, False)
        assert "refuses the account" in found.finding
        assert "wrong@" not in found.finding


def test_an_account_without_the_right_to_ask_is_a_warning(settings: Settings, valkey: ValkeyServer) -> None:
    with valkey.client() as client:
        client.execute_command(*("ACL", "SETUSER", "zoo", "on", ">pass", "~zoo:*", "+@all", "-@dangerous"))
    url = f"redis://zoo:pass@127.0.0.1:{urlsplit(valkey.url).port}/0"
    found = only(broker.check(with_broker(settings, url)))
    assert found.state == WARNING
    assert "CONFIG GET" in str(found.fix)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_one_that_accepts_and_never_answers_takes_no_longer_than_its_limit(
    settings: Settings, hanging_port: int, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "TIMEOUT_S", 0.5)
    started = time.monotonic()
    found = only(broker.check(with_broker(settings, f"{scheme}://127.0.0.1:{hanging_port}/0")))
    assert time.monotonic() - started < 10
    assert (found.state, found.unreachable) == (FAULT, True)
    assert "restart" in str(found.fix)


def test_a_frozen_one_does_not_answer(
    settings: Settings, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "TIMEOUT_S", 0.5)
    valkey.freeze()
    try:
        found = only(broker.check(with_broker(settings, valkey.url)))
    finally:
        valkey.thaw()
    assert (found.state, found.unreachable) == (FAULT, True)
    assert "does not answer" in found.finding


@pytest.mark.parametrize("url", ["redis://127.0.0.1:9/0", "amqp://zoo:secret@127.0.0.1:9//"])
def test_a_missing_one_is_unreachable(settings: Settings, url: str) -> None:
    found = only(broker.check(with_broker(settings, url)))
    assert (found.state, found.unreachable) == (FAULT, True)
    assert "secret" not in found.finding


def test_one_without_host_or_port_is_looked_for_where_celery_would(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(b"\x01") as port:
        monkeypatch.setitem(broker._DEFAULT_PORTS, "amqp", port)
        assert only(broker.check(with_broker(settings, "amqp://"))).state == OK
    monkeypatch.setitem(broker._DEFAULT_PORTS, "amqp", 9)
    assert only(broker.check(with_broker(settings, "amqp://zoo@localhost//"))).unreachable


@contextmanager
def answering(said: bytes) -> Iterator[int]:
    """The port of a socket that answers AMQP's protocol header once, and then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError), listening.accept()[0] as connection:
                if connection.recv(8) == b"AMQP\x00\x00\x09\x01":
                    connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("said", "state", "finding"),
    [
        (b"\x01\x00\x00", OK, "answers"),
        (b"AMQP\x00\x01\x00\x00", FAULT, "not RabbitMQ"),
        (b"", FAULT, "not RabbitMQ"),
    ],
)
def test_rabbitmq_is_known_by_its_answer(settings: Settings, said: bytes, state: str, finding: str) -> None:
    with answering(said) as port:
        found = only(broker.check(with_broker(settings, f"amqp://zoo:secret@127.0.0.1:{port}//")))
    assert (found.state, finding in found.finding) == (state, True)
    assert "secret" not in str(found)


def test_a_rabbitmq_that_hangs_does_not_answer(
    settings: Settings, hanging_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "TIMEOUT_S", 0.3)
    found = only(broker.check(with_broker(settings, f"amqp://127.0.0.1:{hanging_port}//")))
    assert (found.state, found.unreachable) == (FAULT, True)
    assert "does not answer" in found.finding


def test_behind_tls_an_open_port_suffices(settings: Settings, hanging_port: int) -> None:
    assert only(broker.check(with_broker(settings, f"amqps://127.0.0.1:{hanging_port}//"))).state == OK
