"""The schema's history ends where the models are, can be walked back, and needs nothing of ours."""

import ast
import sys
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from migrations import HEAD, REVISIONS, SCRIPT_LOCATION
from registry.database.database import Database
from registry.database.schema import ensure_current, migrate, stored_revision
from registry.database.table import Table
from tests.services import settings_for


def _opened(url: str, tmp_path: Path) -> Database:
    return Database(settings_for(url, home=tmp_path))


def _checks(connection: Connection) -> dict[str, set[tuple[str | None, str]]]:
    # Alembic's comparison leaves CHECK constraints out.
    tables = inspect(connection)
    return {
        table: {(check["name"], str(check["sqltext"])) for check in tables.get_check_constraints(table)}
        for table in Table.metadata.tables
    }


def _is_of_the_models(name: str | None, kind: str, _: object) -> bool:
    """Full text search is each database's own, so the models do not know it."""
    is_search = str(name).startswith("adapter_search") or name == "ix_adapter_text_words"
    return not (kind in ("table", "index") and is_search)


def test_the_migrated_schema_is_that_of_the_models(database: Database) -> None:
    with database.writing_connection() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_name": _is_of_the_models}
        )
        assert compare_metadata(context, Table.metadata) == []


def test_the_migrated_checks_are_those_of_the_models(empty_database_url: str, tmp_path: Path) -> None:
    with _opened(empty_database_url, tmp_path) as database, database.writing_connection() as connection:
        Table.metadata.create_all(connection)
        created = _checks(connection)
        Table.metadata.drop_all(connection)
        migrate(connection, to=HEAD)
        assert _checks(connection) == created


def test_going_down_leaves_nothing_and_going_up_again_gives_the_same(
    empty_database_url: str, tmp_path: Path
) -> None:
    with _opened(empty_database_url, tmp_path) as database:
        ensure_current(database)
        with database.writing_connection() as connection:
            migrate(connection, to="base")
            assert inspect(connection).get_table_names() == ["alembic_version"]
            assert stored_revision(connection) is None
        ensure_current(database)
        with database.writing_connection() as connection:
            context = MigrationContext.configure(connection, opts={"include_name": _is_of_the_models})
            assert compare_metadata(context, Table.metadata) == []


def test_there_is_one_head_and_the_list_of_revisions_is_the_history() -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPT_LOCATION))
    scripts = ScriptDirectory.from_config(config)
    walked = [script.revision for script in scripts.walk_revisions()]
    assert scripts.get_heads() == [HEAD]
    assert tuple(reversed(walked)) == REVISIONS


def test_a_database_at_each_older_revision_is_brought_up_to_date(
    empty_database_url: str, tmp_path: Path
) -> None:
    with _opened(empty_database_url, tmp_path) as database:
        for revision in REVISIONS[:-1]:
            with database.writing_connection() as connection:
                migrate(connection, to=revision)
            ensure_current(database)
            with database.writing_connection() as connection:
                assert stored_revision(connection) == HEAD
                migrate(connection, to="base")


def test_revisions_import_alembic_and_sqlalchemy_only() -> None:
    revisions = sorted((SCRIPT_LOCATION / "versions").glob("[0-9]*.py"))
    assert len(revisions) == len(REVISIONS)
    for path in revisions:
        assert _imported(path) <= {"alembic", "sqlalchemy", *sys.stdlib_module_names}


def _imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in plain | members}
