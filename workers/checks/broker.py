"""The broker: whether it answers in time, and whether it would ever throw a message away.

Messages are hints, so nothing is lost with them; but a broker that evicts its queue makes jobs wait.
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
#: What an AMQP 0-9-1 client says first, unasked; a server that is well answers with a method frame.
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
            mend="pip install 'adapter-zoo[broker]'",
        )
        return
    shown = _without_account(url)
    try:
        with redis.Redis.from_url(
            _as_redis_url(url),
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.ping()
            yield from _of_answer(shown, _told(client, redis.exceptions.NoPermissionError))
    except (redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError) as error:
        yield fault("broker", f"{shown} refuses the account: {error}", mend=_PASSWORD)
    except redis.exceptions.TimeoutError:
        yield fault(
            "broker",
            f"{shown} accepts connections but does not answer within {TIMEOUT_S:g} s;"
            " jobs can still be submitted and wait",
            mend="restart it: docker compose restart broker",
            unreachable=True,
        )
    except redis.exceptions.BusyLoadingError:
        yield warning("broker", f"{shown} is loading its data", mend="wait, then: zoo doctor")
    except redis.exceptions.ConnectionError as error:
        yield fault(
            "broker",
            f"{shown} cannot be reached: {error}; jobs can still be submitted and wait",
            mend="start it: docker compose up -d broker, or correct ZOO_BROKER_URL",
            unreachable=True,
        )
    except redis.exceptions.ResponseError as error:
        yield fault("broker", f"{shown} answers with an error: {error}", mend=f"{_CLI} ping")


_PASSWORD = "put the right password into ZOO_BROKER_URL: redis://:PASSWORD@host:6379/0"  # noqa: S105 - a hint


def _told(client: Any, no_permission: type[Exception]) -> Mapping[str, Any] | None:
    """What the server tells of itself; None if this account may not ask."""
    try:
        told: Mapping[str, Any] = client.info("everything")
    except no_permission:
        return None
    return told


def _of_answer(shown: str, told: Mapping[str, Any] | None) -> Iterator[Finding]:
    if told is None:
        yield warning(
            "broker",
            f"{shown} answers, but this account may not ask how it keeps messages",
            mend="as its administrator: redis-cli CONFIG GET maxmemory-policy appendonly",
        )
        return
    name = "Valkey" if "valkey_version" in told else "Redis"
    yield ok("broker", f"{shown} answers, {name} {told.get('valkey_version') or told.get('redis_version')}")
    yield of_eviction(str(told.get("maxmemory_policy")))
    yield from of_persistence(told)


def of_eviction(policy: str) -> Finding:
    """Whether a full broker refuses messages, or throws the queue away without a word."""
    if policy == _SAFE_POLICY:
        return ok("broker", f"eviction policy {policy}")
    return fault(
        "broker",
        f"eviction policy {policy}: when memory is full it throws queued messages away",
        mend=f"{_CLI} CONFIG SET maxmemory-policy {_SAFE_POLICY}, and the same in its configuration",
    )


def of_persistence(told: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether queued messages survive a restart; without, they are sent again within half a minute."""
    if not told.get("aof_enabled"):
        yield warning(
            "broker",
            "no append-only file: after a restart jobs start late",
            mend=f"{_CLI} CONFIG SET appendonly yes, and the same in its configuration",
        )
    elif told.get("aof_last_write_status") != "ok":
        yield fault(
            "broker",
            f"its last write to the append-only file: {told.get('aof_last_write_status')}",
            mend="make room on its disk",
        )
    else:
        yield ok("broker", "append-only file on")


def _amqp(url: str) -> Finding:
    """RabbitMQ: whether it answers a greeting; behind TLS, whether its port takes a connection."""
    parts = urlsplit(url)
    shown = _without_account(url)
    address = (parts.hostname or "localhost", parts.port or _DEFAULT_PORTS[parts.scheme])
    try:
        with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
            if parts.scheme == "amqps":
                return ok("broker", f"{shown} takes connections")
            connection.sendall(_AMQP_GREETING)
            answer = connection.recv(1)
    except TimeoutError:
        return fault(
            "broker",
            f"{shown} does not answer within {TIMEOUT_S:g} s; jobs can still be submitted and wait",
            mend="restart it; rabbitmqctl status says what it waits for",
            unreachable=True,
        )
    except OSError as error:
        return fault(
            "broker",
            f"{shown} cannot be reached: {error}",
            mend="start it, or correct ZOO_BROKER_URL",
            unreachable=True,
        )
    if answer != _AMQP_ANSWER:
        return fault(
            "broker", f"{shown} is no RabbitMQ: it does not speak AMQP", mend="correct ZOO_BROKER_URL"
        )
    return ok("broker", f"{shown} answers")


def _as_redis_url(url: str) -> str:
    """In the client's words, where Celery has words of its own."""
    return url.replace("redis+socket://", "unix://", 1)


def _without_account(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
