"""Rows of plain SQL as dictionaries, equal for both databases. Read-only.

Commands that must answer at once use the driver, because importing SQLAlchemy takes longer than they may run;
all other code reads in one of SQLAlchemy's transactions.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from registry.database.revisions import refuse_other
from registry.database.sqlite_location import read_only_uri, require_location, sqlite_error
from registry.database.text_search import POSTGRESQL, SQLITE, TextSearch
from registry.errors import DatabaseUnreachable
from registry.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

Row = dict[str, Any]
#: Converts a column of a driver's values to the values that every reader returns.
Conversion = Callable[[Sequence[Any]], Sequence[Any]]
#: Runs SQL with values and returns the driver's cursor.
Execute = Callable[[str, tuple[object, ...]], Any]

#: SQLite returns values as stored; the tables declare their types. Columns of one name have one type.
_DECLARED = """
SELECT DISTINCT c.name, c.type
FROM sqlite_master t JOIN pragma_table_info(t.name) c
WHERE t.type = 'table'
"""
#: Types of computed columns, which no table declares.
_COMPUTED = {"is_lost": "BOOLEAN", "read_at": "DATETIME"}
#: PostgreSQL's numbers of the types whose values are converted (pg_type.dat).
_PG_JSON, _PG_TIMESTAMPTZ = 114, 1184
#: Rows that are converted at once: few, so that Python's garbage collector does not traverse a growing number
#: of the driver's tuples again and again.
AT_ONCE = 500


class Reader(Protocol):
    """Runs SQL with `?` for each value, and returns rows as dictionaries."""

    #: SQL of the database's clock.
    now: str
    text_search: TextSearch

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows of a query."""


class SqliteReader:
    """A reader of a SQLite file."""

    now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    text_search = SQLITE

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows, with JSON, booleans and times as PostgreSQL returns them."""
        return _rows(self._execute(sql, tuple(values)), lambda column: self._conversions.get(column[0]))

    @cached_property
    def _conversions(self) -> dict[str, Conversion]:
        by_type: dict[str, Conversion] = {"JSON": _decoded, "BOOLEAN": _switched, "DATETIME": _from_text}
        declared = dict(self._execute(_DECLARED, ()).fetchall()) | _COMPUTED
        return {name: by_type[kind] for name, kind in declared.items() if kind in by_type}


class PostgresReader:
    """A reader of a PostgreSQL server, whose driver returns JSON as text."""

    now = "clock_timestamp()"
    text_search = POSTGRESQL

    def __init__(self, execute: Execute, *, json_is_text: bool) -> None:
        self._execute = execute
        self._conversions: dict[int, Conversion] = {_PG_TIMESTAMPTZ: _in_utc}
        if json_is_text:
            self._conversions[_PG_JSON] = _decoded

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows, times in UTC."""
        cursor = self._execute(sql.replace("?", "%s"), tuple(values))
        return _rows(cursor, lambda column: self._conversions.get(column[1]))


class EmptyReader:
    """A reader of a database that does not exist yet: everything is empty."""

    now = "NULL"
    text_search = SQLITE

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:  # noqa: ARG002 - nothing is run
        """No rows."""
        return []


def reader_over(session: "Session") -> Reader:
    """A reader of what the session's transaction sees, including its own changes."""
    session.flush()
    connection = session.connection()

    def execute(sql: str, values: tuple[object, ...]) -> Any:
        return connection.exec_driver_sql(sql, values).cursor

    if connection.dialect.name == "sqlite":
        return SqliteReader(execute)
    return PostgresReader(execute, json_is_text=False)


@contextmanager
def open_reader(settings: Settings) -> Iterator[Reader]:
    """A reader of the current schema; an empty one if there is no database yet.

    Raises:
        InvalidSetting: the database file has no folder, or is not a database.
        DatabaseUnreachable: the database does not answer.
        SchemaMismatch: its schema is that of an older or newer release.
    """
    require_location(settings)
    path = settings.sqlite_path
    if path is None:
        with _postgres(settings.database_url) as server_reader:
            yield server_reader
    elif path.exists():
        with _sqlite(path) as file_reader:
            yield file_reader
    else:
        yield EmptyReader()


@contextmanager
def _sqlite(path: Path) -> Iterator[Reader]:
    try:
        uri = read_only_uri(path) or f"file:{quote(str(path))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            reader = SqliteReader(connection.execute)
            tables = reader.rows("SELECT name FROM sqlite_master WHERE name = 'alembic_version'")
            yield _checked(reader) if tables else EmptyReader()
    except sqlite3.Error as error:
        raise sqlite_error(str(error), str(path)) or DatabaseUnreachable(
            f"the database {path} cannot be read: {error}; check ZOO_DATABASE_URL"
        ) from error


@contextmanager
def _postgres(url: str) -> Iterator[Reader]:
    import psycopg
    from psycopg.types.string import TextLoader

    try:
        conninfo = url.replace("postgresql+psycopg://", "postgresql://", 1)
        with psycopg.connect(conninfo, connect_timeout=5, autocommit=True) as connection:
            # Decoding JSON value by value takes psycopg longer than everything else together.
            connection.adapters.register_loader("json", TextLoader)
            reader = PostgresReader(connection.execute, json_is_text=True)
            tables = reader.rows("SELECT to_regclass('alembic_version') IS NOT NULL AS found")
            yield _checked(reader) if tables[0]["found"] else EmptyReader()
    except psycopg.Error as error:
        said = str(error).strip().partition("\n")[0]
        raise DatabaseUnreachable(
            f"the database does not answer: {said}; check ZOO_DATABASE_URL and that the server runs"
        ) from error


def _checked(reader: Reader) -> Reader:
    stored = [row["version_num"] for row in reader.rows("SELECT version_num FROM alembic_version")]
    if not stored:
        return EmptyReader()
    refuse_other(str(stored[0]))
    return reader


def _rows(cursor: Any, conversion_of: Callable[[Any], Conversion | None]) -> list[Row]:
    """The rows of a query, converted by column, because checking every value takes longer than the query."""
    names = [column[0] for column in cursor.description]
    conversions = [conversion_of(column) for column in cursor.description]
    found: list[Row] = []
    while fetched := cursor.fetchmany(AT_ONCE):
        columns = [
            column if convert is None else convert(column)
            for convert, column in zip(conversions, zip(*fetched, strict=True), strict=True)
        ]
        found += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return found


def _decoded(column: Sequence[str | None]) -> Sequence[Any]:
    """JSON, decoded in one go."""
    decoded: list[Any] = json.loads(f"[{','.join('null' if text is None else text for text in column)}]")
    return decoded


def _switched(column: Sequence[int | None]) -> Sequence[bool | None]:
    return [None if value is None else bool(value) for value in column]


def _from_text(column: Sequence[str | None]) -> Sequence[datetime | None]:
    return [None if text is None else datetime.fromisoformat(f"{text}+00:00") for text in column]


def _in_utc(column: Sequence[datetime | None]) -> Sequence[datetime | None]:
    return [None if time is None else time.astimezone(UTC) for time in column]
