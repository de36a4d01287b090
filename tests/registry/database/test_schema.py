"""Opening upgrades a database to this release's schema: once, whichever process is first, and never back."""

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from migrations import HEAD, REVISIONS
from registry.database.database import Database
from registry.database.schema import ensure_current, migrate, stored_revision
from registry.errors import SchemaMismatch
from tests.services import settings_for

#: Waits for a line, so that all start at once; then opens the zoo and says which revision it found.
_OPENER = """
import sys
from registry.database.database import Database
from registry.database.schema import ensure_current, stored_revision
from registry.settings import Settings
settings = Settings.from_env({"ZOO_HOME": sys.argv[1], "ZOO_DATABASE_URL": sys.argv[2]})
import alembic.command
print("ready", flush=True)
sys.stdin.readline()
with Database(settings) as database:
    ensure_current(database)
    with database.read() as session:
        print(stored_revision(session.connection()))
"""


def _revision(database: Database) -> str | None:
    with database.read() as session:
        return stored_revision(session.connection())


def test_an_empty_database_gets_the_newest_schema(empty_database_url: str, tmp_path: Path) -> None:
    with Database(settings_for(empty_database_url, home=tmp_path)) as database:
        assert _revision(database) is None
        ensure_current(database)
        assert _revision(database) == HEAD


def test_an_older_database_keeps_its_rows(empty_database_url: str, tmp_path: Path) -> None:
    with Database(settings_for(empty_database_url, home=tmp_path)) as database:
        with database.writing_connection() as connection:
            migrate(connection, to=REVISIONS[0])
            connection.execute(
                text(
                    "INSERT INTO job (kind, state, spec, spec_digest, queue, priority, attempt, max_attempts,"
                    " fence, cancel_requested, progress, outcome, event_count, created_at) VALUES ('train',"
                    " 'queued', '{}', 'd', 'cpu', 0, 0, 3, 0, false, '{}', '{}', 0, CURRENT_TIMESTAMP)"
                )
            )
        ensure_current(database)
        with database.read() as session:
            assert session.execute(text("SELECT kind FROM job")).scalar() == "train"
        assert _revision(database) == HEAD


@pytest.mark.processes
def test_processes_that_open_an_empty_database_at_once_all_find_it_current(
    empty_database_url: str, tmp_path: Path
) -> None:
    arguments = [sys.executable, "-c", _OPENER, str(tmp_path), empty_database_url]
    openers = [
        subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("go\n")
        opener.stdin.flush()
    said = [opener.communicate(timeout=600) for opener in openers]
    assert [found.strip() for found, _ in said] == [HEAD] * 3, said


def test_a_database_of_a_newer_release_is_refused_and_left_alone(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="pip install --upgrade"):
        ensure_current(database)
    assert _revision(database) == "9999"


@pytest.mark.processes
def test_opening_a_current_database_does_not_import_alembic(migrated_sqlite: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tests.services import settings_for\nfrom pathlib import Path\n"
        "from registry.service import Registry\n"
        f"with Registry.open(settings_for('sqlite:///{migrated_sqlite}', home=Path({str(tmp_path)!r}))):\n"
        "    assert 'alembic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
