"""Plain rows straight over the database driver, for commands that must answer at once.

SQLAlchemy takes longer to import than such a command may take to run; nothing here imports it. Reads only.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from registry.database.revisions import refuse_other
from registry.database.sqlite_location import require_location, sqlite_error
from registry.errors import DatabaseUnreachable
from registry.settings import Settings

Row = dict[str, object]

#: Columns that a driver gives in a plainer form than they are to have.
_JSON_COLUMNS = {"domains", "tags", "warnings", "progress", "spec", "outcome", "queues"}
_SWITCH_COLUMNS = {"cancel_requested", "is_lost", "use_rslora"}
_TIME_ENDINGS = ("_at", "_until")
#: Rows turned into dictionaries together: few enough that what they came in is gone when the next ones come,
#: for Python's collector looks again and again at whatever piles up.
AT_ONCE = 500


class Reader(Protocol):
    """Runs SQL with `?` for each value, and gives rows as dictionaries."""

    #: SQL of the database's clock, which the times in it were read off.
    now: str

    def elements(self, column: str) -> str:
        """SQL of a table `element` with one column `value`: the elements of a column's JSON array."""

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows of a query."""


class SqliteReader:
    """Over the standard library's driver."""

    now = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def elements(self, column: str) -> str:
        """SQLite's words for the elements of a JSON array."""
        return f"json_each({column}) AS element"

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows, JSON, switches and times as PostgreSQL would give them."""
        return _rows(self._connection.execute(sql, tuple(values)), as_time=_from_text)


class PostgresReader:
    """Over psycopg."""

    now = "clock_timestamp()"

    def __init__(self, connection: Any) -> None:
        from psycopg.types.string import TextLoader

        # Value by value, psycopg takes longer to decode JSON than for all the rest.
        connection.adapters.register_loader("json", TextLoader)
        self._connection = connection

    def elements(self, column: str) -> str:
        """PostgreSQL's words for the elements of a JSON array."""
        return f"json_array_elements_text({column}) AS element(value)"

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows, times in UTC."""
        return _rows(self._connection.execute(sql.replace("?", "%s"), tuple(values)), as_time=_in_utc)


@contextmanager
def open_reader(settings: Settings) -> Iterator[Reader | None]:
    """A reader of the current schema; None if there is nothing to read yet.

    Raises:
        InvalidSetting: the database file has no place, or is no database.
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
        yield None


@contextmanager
def _sqlite(path: Path) -> Iterator[Reader | None]:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=10)) as connection:
            reader = SqliteReader(connection)
            tables = reader.rows("SELECT name FROM sqlite_master WHERE name = 'alembic_version'")
            yield _checked(reader) if tables else None
    except sqlite3.Error as error:
        raise sqlite_error(str(error), str(path)) or DatabaseUnreachable(
            f"the database {path} cannot be read: {error}; check ZOO_DATABASE_URL"
        ) from error


@contextmanager
def _postgres(url: str) -> Iterator[Reader | None]:
    import psycopg

    try:
        conninfo = url.replace("postgresql+psycopg://", "postgresql://", 1)
        with psycopg.connect(conninfo, connect_timeout=5, autocommit=True) as connection:
            reader = PostgresReader(connection)
            tables = reader.rows("SELECT to_regclass('alembic_version') IS NOT NULL AS found")
            yield _checked(reader) if tables[0]["found"] else None
    except psycopg.Error as error:
        said = str(error).strip().partition("\n")[0]
        raise DatabaseUnreachable(
            f"the database does not answer: {said}; check ZOO_DATABASE_URL and that the server runs"
        ) from error


def _checked(reader: Reader) -> Reader | None:
    stored = [row["version_num"] for row in reader.rows("SELECT version_num FROM alembic_version")]
    if not stored:
        return None
    refuse_other(str(stored[0]))
    return reader


def _rows(cursor: Any, *, as_time: Callable[[Any], datetime]) -> list[Row]:
    """What a query found; a column at a time, because to ask for every value takes longer than the query."""
    names = [column[0] for column in cursor.description]
    found: list[Row] = []
    while fetched := cursor.fetchmany(AT_ONCE):
        columns = [
            _converted(name, column, as_time=as_time)
            for name, column in zip(names, zip(*fetched, strict=True), strict=True)
        ]
        found += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return found


def _converted(name: str, column: Sequence[Any], *, as_time: Callable[[Any], datetime]) -> Sequence[object]:
    """A column's values as every driver is to give them."""
    if name in _JSON_COLUMNS:
        decoded: list[object] = json.loads(
            f"[{','.join('null' if text is None else text for text in column)}]"
        )
        return decoded
    if name in _SWITCH_COLUMNS:
        return [None if value is None else bool(value) for value in column]
    if name.endswith(_TIME_ENDINGS):
        return [None if value is None else as_time(value) for value in column]
    return column


def _from_text(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


def _in_utc(time: datetime) -> datetime:
    return time.astimezone(UTC)
