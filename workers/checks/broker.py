"""The broker: whether it answers in time, and whether it may discard messages.

Messages only wake workers up, so no job is lost with them; but after an eviction jobs start late.
"""

import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from registry.settings import Settings
from workers.checks.findings import Finding, fault, ok, warning

TIMEOUT_S = 3.0
_REDIS_SCHEMES = ("redis", "rediss", "redis+socket")
_SAFE_POLICY = "noeviction"
_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671, "pyamqp": 5672}
#: The protocol header that an AMQP 0-9-1 client sends first; a healthy server answers with a method frame.
_AMQP_GREETING, _AMQP_ANSWER = b"AMQP\x00\x00\x09\x01", b"\x01"
_CLI = 'redis-cli -u "$ZOO_BROKER_URL"'


def check(settings: Settings) -> Iterator[Finding]:
    """The broker that ZOO_BROKER_URL names, if any."""
    url = settings.broker_url
    if url is None:
        yield ok("broker", "none: workers take jobs from the database")
    elif urlsplit(url).scheme in _REDIS_SCHEMES:
        yield from _redis(url)
    else:
        yield _amqp(url)


def _redis(url: str) -> Iterator[Finding]:
    try:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        yield fault(
            "broker",
            "the client of Redis and Valkey is not installed",
            fix="pip install 'adapter-zoo[broker]'",
        )
        return
    server = _without_account(url)
    try:
        with redis.Redis.from_url(
            _as_redis_url(url),
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.ping()
            yield from _of_server(server, _server_info(client, redis.exceptions.NoPermissionError))
    except (redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError) as error:
        yield fault("broker", f"{server} refuses the account: {error}", fix=_PASSWORD)
    except redis.exceptions.TimeoutError:
        yield fault(
            "broker",
            f"{server} accepts connections but does not answer within {TIMEOUT_S:g} s;"
            " jobs can still be submitted and wait",
            fix="restart it: docker compose restart broker",
            unreachable=True,
        )
    except redis.exceptions.BusyLoadingError:
        yield warning("broker", f"{server} is loading its data", fix="wait, then: zoo doctor")
    except redis.exceptions.ConnectionError as error:
        yield fault(
            "broker",
            f"{server} cannot be reached: {error}; jobs can still be submitted and wait",
            fix="start it: docker compose up -d broker, or correct ZOO_BROKER_URL",
            unreachable=True,
        )
    except redis.exceptions.ResponseError as error:
        yield fault("broker", f"{server} answers with an error: {error}", fix=f"{_CLI} ping")


_PASSWORD = "put the right password into ZOO_BROKER_URL: redis://:PASSWORD@host:6379/0"  # noqa: S105 - a text


def _server_info(client: Any, no_permission: type[Exception]) -> Mapping[str, Any] | None:
    """The server's `INFO`; None if this account may not ask for it."""
    try:
        info: Mapping[str, Any] = client.info("everything")
    except no_permission:
        return None
    return info


def _of_server(server: str, info: Mapping[str, Any] | None) -> Iterator[Finding]:
    if info is None:
        yield warning(
            "broker",
            f"{server} answers, but this account may not read how it stores messages",
            fix="as its administrator: redis-cli CONFIG GET maxmemory-policy appendonly",
        )
        return
    name = "Valkey" if "valkey_version" in info else "Redis"
    yield ok("broker", f"{server} answers, {name} {info.get('valkey_version') or info.get('redis_version')}")
    yield of_eviction(str(info.get("maxmemory_policy")))
    yield from of_persistence(info)


def of_eviction(policy: str) -> Finding:
    """Whether a full broker refuses new messages, or discards queued ones."""
    if policy == _SAFE_POLICY:
        return ok("broker", f"eviction policy {policy}")
    return fault(
        "broker",
        f"eviction policy {policy}: when memory is full, queued messages are discarded",
        fix=f"{_CLI} CONFIG SET maxmemory-policy {_SAFE_POLICY}, and the same in its configuration",
    )


def of_persistence(info: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether queued messages survive a restart; if not, they are sent again within half a minute."""
    if not info.get("aof_enabled"):
        yield warning(
            "broker",
            "no append-only file: after a restart jobs start late",
            fix=f"{_CLI} CONFIG SET appendonly yes, and the same in its configuration",
        )
    elif info.get("aof_last_write_status") != "ok":
        yield fault(
            "broker",
            f"its last write to the append-only file: {info.get('aof_last_write_status')}",
            fix="free space on its disk",
        )
    else:
        yield ok("broker", "append-only file on")


def _amqp(url: str) -> Finding:
    """RabbitMQ: whether it answers a protocol header; behind TLS, whether its port accepts a connection."""
    parts = urlsplit(url)
    server = _without_account(url)
    address = (parts.hostname or "localhost", parts.port or _DEFAULT_PORTS[parts.scheme])
    try:
        with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
            if parts.scheme == "amqps":
                return ok("broker", f"{server} accepts connections")
            connection.sendall(_AMQP_GREETING)
            answer = connection.recv(1)
    except TimeoutError:
        return fault(
            "broker",
            f"{server} does not answer within {TIMEOUT_S:g} s; jobs can still be submitted and wait",
            fix="restart it; rabbitmqctl status says what it waits for",
            unreachable=True,
        )
    except OSError as error:
        return fault(
            "broker",
            f"{server} cannot be reached: {error}",
            fix="start it, or correct ZOO_BROKER_URL",
            unreachable=True,
        )
    if answer != _AMQP_ANSWER:
        return fault(
            "broker", f"{server} is not RabbitMQ: it does not speak AMQP", fix="correct ZOO_BROKER_URL"
        )
    return ok("broker", f"{server} answers")


def _as_redis_url(url: str) -> str:
    """The URL with the client's name of the socket scheme instead of Celery's."""
    return url.replace("redis+socket://", "unix://", 1)


def _without_account(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
