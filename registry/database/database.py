"""A database, SQLite or PostgreSQL: opening it, and its two kinds of transaction. Knows no tables."""

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from registry.database.fork_gate import FORK_GATE
from registry.database.sqlite_location import read_only_uri, sqlite_error
from registry.errors import DatabaseUnreachable, DiskFull, RegistryError
from registry.files.json_text import as_json
from registry.settings import Settings

#: How long a write waits for another writer's lock, on both databases.
LOCK_TIMEOUT_MS = 10_000

#: A client that is frozen inside a transaction must not hold its locks forever.
_POSTGRESQL_OPTIONS = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c idle_in_transaction_session_timeout=10000"
_POSTGRESQL_CONNECT = {
    "options": _POSTGRESQL_OPTIONS,
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # TCP keepalives do not detect a dead peer while sent data is unacknowledged.
    "tcp_user_timeout": 20_000,
    "application_name": "adapter-zoo",
}

_SQLITE_PRAGMAS = (
    f"busy_timeout={LOCK_TIMEOUT_MS}",
    "synchronous=FULL",
    "foreign_keys=ON",
)

_BEGIN = "sqlite_begin"


class Database:
    """The engine and its two kinds of transaction; callers decide what happens inside them."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.database_url
        self.engine = _engine(settings)
        # SQLite can fail to upgrade a read transaction to a write, so writers take the lock at once.
        self._writer = self.engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one snapshot of the database and is rolled back at the end."""
        with self._translated(), Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed at the end, or rolled back if the block raises."""
        with self._translated(), Session(self._writer) as session, session.begin():
            yield session

    @contextmanager
    def writing_connection(self) -> Iterator[Connection]:
        """The same as `write` for work below SQLAlchemy's ORM, such as migrations."""
        with self._translated(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with FORK_GATE.transaction():
                yield
        except DBAPIError as error:
            translated = sqlite_error(str(error.orig), self.url.removeprefix("sqlite:///"))
            # Others, such as IntegrityError, come from a database that works.
            if translated is None and not isinstance(error, (OperationalError, InterfaceError)):
                raise
            raise translated or _as_registry_error(error) from error

    def disconnect(self) -> None:
        """Close the connections that no transaction uses; the next transaction opens its own."""
        self.engine.dispose()

    def close(self) -> None:
        """Close all connections."""
        with FORK_GATE.transaction():
            self.disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _engine(settings: Settings) -> Engine:
    if settings.sqlite_path is not None:
        return _sqlite_engine(settings.sqlite_path)
    return create_engine(
        settings.database_url,
        connect_args=_POSTGRESQL_CONNECT,
        pool_pre_ping=True,
        json_serializer=as_json,
    )


def _sqlite_engine(path: Path) -> Engine:
    uri = read_only_uri(path)
    # Not parsed from text: a path may hold characters that mean something in a URL.
    url = URL.create("sqlite", database=str(path))
    if uri is None:
        engine = create_engine(url, json_serializer=as_json)
        event.listen(engine, "connect", _prepare_sqlite)
    else:
        engine = create_engine(url, json_serializer=as_json, creator=partial(_read_only, uri))
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _read_only(uri: str) -> sqlite3.Connection:
    """A connection that a transaction for writing fails on, as the file's permissions demand."""
    connection = sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_MS / 1000, check_same_thread=False)
    connection.isolation_level = None
    return connection


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Turns off the driver's implicit BEGIN; `_begin_sqlite` begins transactions.
    connection.isolation_level = None
    for pragma in _SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    _write_ahead(connection)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch a new database to write-ahead logging, even while other processes do the same.

    Where two readers want to write, SQLite answers "locked" without applying its busy timeout
    (https://www.sqlite.org/c3ref/busy_handler.html), so the retries are ours.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        else:
            return
        # Random, because two processes that collide would collide again after equal pauses.
        time.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - no secret


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _as_registry_error(error: DBAPIError) -> RegistryError:
    # The driver's message alone: the statement's parameters may be long or private.
    message = str(error.orig).strip().partition("\n")[0]
    if "disk is full" in message or "No space left" in message:
        return DiskFull(f"the database cannot grow: {message}; free space, then repeat the command")
    if "locked" in message:
        return DatabaseUnreachable(
            f"another process has held the database for {LOCK_TIMEOUT_MS / 1000:g} s ({message});"
            " end it or let it finish, then repeat the command"
        )
    return DatabaseUnreachable(
        f"the database does not answer: {message}; check ZOO_DATABASE_URL and that the server runs"
    )
