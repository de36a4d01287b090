"""The guarantees of each kind of transaction, and the errors of a database that does not answer."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from registry.database.database import Database
from registry.errors import DatabaseUnreachable
from registry.jobs.store import JobStore
from registry.records.models import AdapterRow, AliasRow
from registry.settings import Settings
from tests.services import settings_for


def _names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(AdapterRow.name).order_by(AdapterRow.name)))


def _add(database: Database, name: str) -> None:
    with database.write() as session:
        session.add(AdapterRow(name=name))


@pytest.fixture
def sqlite(tmp_path: Path, migrated_sqlite: Path) -> Path:
    path = tmp_path / "zoo.db"
    path.write_bytes(migrated_sqlite.read_bytes())
    return path


def test_a_write_is_kept_and_one_that_fails_leaves_nothing(database: Database) -> None:
    _add(database, "kept")
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(insert(AdapterRow), [{"name": "lost"}, {"name": "lost"}])
    assert _names(database) == ["kept"]


def test_connections_that_meet_in_a_new_database_all_open_it(tmp_path: Path) -> None:
    # They collide in SQLite's switch of the journal by chance: in dozens of a hundred databases.
    for attempt in range(100):
        settings = settings_for(f"sqlite:///{tmp_path}/{attempt}.db", home=tmp_path)
        meeting = Barrier(3)

        def opened(settings: Settings = settings, meeting: Barrier = meeting) -> int:
            with Database(settings) as database:
                meeting.wait()
                with database.read() as session:
                    return len(session.execute(text("SELECT name FROM sqlite_master")).all())

        with ThreadPoolExecutor(3) as openers:
            assert [future.result() for future in [openers.submit(opened) for _ in range(3)]] == [0, 0, 0]


def test_what_a_read_changes_is_not_kept(database: Database) -> None:
    with database.read() as session:
        session.add(AdapterRow(name="lost"))
        session.flush()
    assert _names(database) == []


def test_a_reader_sees_one_state_while_others_write(settings: Settings, database: Database) -> None:
    if database.engine.dialect.name == "postgresql":
        database.engine.update_execution_options(isolation_level="REPEATABLE READ")
    with database.read() as session:
        assert session.scalars(select(AdapterRow.name)).all() == []
        with Database(settings) as other:
            _add(other, "new")
        assert session.scalars(select(AdapterRow.name)).all() == []
    assert _names(database) == ["new"]


def test_a_writer_waits_for_the_one_before_it(settings: Settings, database: Database) -> None:
    started = Event()

    def write_later() -> None:
        with Database(settings) as other:
            started.set()
            _add(other, "bio")

    later = Thread(target=write_later)
    with database.write() as session:
        session.add(AdapterRow(name="bio"))
        session.flush()
        later.start()
        assert started.wait(30)
        session.rollback()
    later.join(30)
    assert _names(database) == ["bio"]


def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(AliasRow(kind="adapter", name="bio", alias="best", version=1, adapter_version_id=1))


@pytest.mark.parametrize(
    "change",
    [
        "state = 'running'",
        "state = 'resting'",
        "state = 'succeeded', reason = 'ok'",
        "state = 'failed', finished_at = created_at",
        "lease_until = created_at",
        "state = 'running', lease_until = created_at",
        "reason = 'ok'",
        "attempt = 4, fence = 4",
        "attempt = 1",
        "attempt = -1",
        "max_attempts = 0",
        "lost_attempts = 1",
        "lost_attempts = -1",
        "memory_cuts = 1",
        "processes = 0",
        "state = 'failed', finished_at = created_at, reason = 'bad luck'",
    ],
)
def test_the_database_itself_refuses_a_job_in_no_proper_state(database: Database, change: str) -> None:
    JobStore(database).submit("train", {}, max_attempts=3)
    with pytest.raises(IntegrityError, match="ck_job_"), database.write() as session:
        session.execute(text(f"UPDATE job SET {change}"))  # noqa: S608


def test_sqlite_is_durable_and_lets_readers_and_a_writer_work_at_once(sqlite: Path, tmp_path: Path) -> None:
    pragmas = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    settings = settings_for(f"sqlite:///{sqlite}", home=tmp_path)
    with Database(settings) as database, database.read() as session:
        found = {name: session.execute(text(f"PRAGMA {name}")).scalar() for name in pragmas}
    assert found == pragmas


def test_a_sqlite_write_takes_the_lock_before_it_reads(sqlite: Path, tmp_path: Path) -> None:
    with (
        Database(settings_for(f"sqlite:///{sqlite}", home=tmp_path)) as database,
        database.write() as session,
    ):
        session.execute(select(AdapterRow.id))
        other = sqlite3.connect(sqlite, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_a_folder_that_is_not_there_is_said_to_be_unreachable(tmp_path: Path) -> None:
    settings = settings_for(f"sqlite:///{tmp_path / 'none' / 'zoo.db'}", home=tmp_path)
    with Database(settings) as database, pytest.raises(DatabaseUnreachable, match="ZOO_DATABASE_URL"):
        _names(database)


def test_a_server_that_is_not_there_is_said_to_be_unreachable_without_the_password(tmp_path: Path) -> None:
    settings = settings_for(f"postgresql://zoo:secret@/zoo?host={tmp_path}", home=tmp_path)
    with Database(settings) as database, pytest.raises(DatabaseUnreachable, match="server") as refusal:
        _names(database)
    assert "secret" not in str(refusal.value)
    assert refusal.value.exit_code == 6


def test_a_lock_that_is_never_given_back_is_named(sqlite: Path, tmp_path: Path) -> None:
    holder = sqlite3.connect(sqlite, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Database(settings_for(f"sqlite:///{sqlite}", home=tmp_path)) as database:
        with database.read() as session:
            # The pooled connection is the one the write will use: it need not wait ten seconds here.
            session.execute(text("PRAGMA busy_timeout=0"))
        with pytest.raises(DatabaseUnreachable, match="another process has held the database"):
            _add(database, "bio")
    holder.close()


def test_a_file_without_write_permission_is_not_reported_as_an_absent_server(
    sqlite: Path, tmp_path: Path
) -> None:
    with Database(settings_for(f"sqlite:///{sqlite}", home=tmp_path)) as database:
        with database.read() as session:
            session.execute(text("PRAGMA query_only=ON"))
        with pytest.raises(DatabaseUnreachable, match="cannot be written: attempt to write a readonly"):
            _add(database, "bio")


def test_a_path_with_percent_signs_is_taken_as_it_is(tmp_path: Path) -> None:
    settings = Settings.from_env({"ZOO_DATABASE_URL": f"sqlite:///{tmp_path / 'a%20b.db'}"})
    with Database(settings) as opened, opened.read() as session:
        session.execute(text("SELECT 1"))
    assert [file.name for file in tmp_path.glob("*.db")] == ["a%20b.db"]
