"""`zoo doctor` on a database that is healthy, empty, missing, read-only, locked or damaged."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pytest

from migrations import HEAD
from registry.settings import Settings
from tests.services import postgres_server
from tests.workers.findings import only, states
from workers.checks import database, sqlite_file
from workers.checks.findings import FAULT, OK, WARNING


def test_a_migrated_one_is_healthy_and_left_as_it_was(settings: Settings) -> None:
    path = settings.sqlite_path
    assert path is not None
    findings = list(database.check(settings))
    assert states(findings) == [OK, OK]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_an_empty_one_wants_to_be_migrated_and_gets_no_table(
    settings: Settings, empty_database_url: str
) -> None:
    asked = replace(settings, database_url=empty_database_url)
    if path := asked.sqlite_path:
        assert only(database.check(asked)).state == OK
        path.touch()
    for _ in range(2):
        first, *others = database.check(asked)
        assert (first.state, first.fix) == (WARNING, "zoo migrate")
        assert set(states(others)) == {OK}


def test_a_server_that_accepts_and_never_answers_times_out(settings: Settings, hanging_port: int) -> None:
    asked = replace(settings, database_url=f"postgresql+psycopg://zoo:secret@127.0.0.1:{hanging_port}/zoo")
    found = only(database.check(asked))
    assert (found.state, found.unreachable) == (FAULT, True)
    assert "secret" not in str(found)


@pytest.mark.processes
def test_a_read_only_server_takes_no_writes(settings: Settings) -> None:
    server = postgres_server()
    server.run("CREATE DATABASE zoo_read_only")
    try:
        server.run("ALTER DATABASE zoo_read_only SET default_transaction_read_only = on")
        findings = list(database.check(replace(settings, database_url=server.url("zoo_read_only"))))
    finally:
        server.run("DROP DATABASE zoo_read_only WITH (FORCE)")
    assert findings[-1].state == FAULT
    assert "read-only transaction" in findings[-1].finding


@pytest.mark.processes
def test_the_process_that_was_frozen_with_the_write_lock_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "_WAIT_S", 0.2)
    code = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    path = settings.sqlite_path
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGSTOP)
        try:
            found = only(database.check(settings))
        finally:
            holder.send_signal(signal.SIGCONT)
    assert (found.state, found.unreachable) == (FAULT, True)
    assert found.fix == f"kill -CONT {holder.pid}"
    assert "stopped" in found.finding
    assert states(list(database.check(settings))) == [OK, OK]


def test_a_file_that_is_no_database_is_said_to_be_damaged(settings: Settings) -> None:
    path = settings.sqlite_path
    assert path is not None
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    found = only(database.check(settings))
    assert found.state == FAULT
    assert "not a database" in found.finding


def test_a_file_in_a_folder_that_may_not_be_written_to(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings.sqlite_path
    assert path is not None
    # Tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = sqlite_file.stuck(path)
    assert found is not None
    assert str(found.fix).startswith("chown")


@pytest.mark.parametrize(
    ("stored", "state", "fix"),
    [
        (HEAD, OK, None),
        ("0001", WARNING, "zoo migrate"),
        ("9999", FAULT, "pip install --upgrade adapter-zoo"),
    ],
)
def test_an_older_schema_is_migrated_and_a_newer_one_needs_a_newer_release(
    stored: str, state: str, fix: str | None
) -> None:
    found = database.of_revision(stored)
    assert (found.state, found.fix) == (state, fix)


@pytest.mark.parametrize(
    ("skew_s", "state", "said"), [(1.9, OK, "1.9 s"), (-61, WARNING, "behind"), (61, WARNING, "ahead of")]
)
def test_a_clock_that_is_off_is_a_warning(skew_s: float, state: str, said: str) -> None:
    found = database.of_skew(skew_s)
    assert found.state == state
    assert said in found.finding
