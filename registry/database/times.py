"""Times: aware and UTC in Python, and the database's own clock in SQL.

Leases are compared with the database's clock only, so hosts whose clocks differ cannot both hold a job.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

#: The form in which SQLAlchemy stores a DateTime in SQLite, so that texts compare as times do; %f has 1 ms.
_SQLITE_FORMAT = "%Y-%m-%d %H:%M:%f000"


class UtcDateTime(TypeDecorator[datetime]):
    """A time that is aware and UTC on both databases; SQLite stores it as text without a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time, whose zone is unknown."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"times must have a time zone, got {value!r}")
        in_utc = value.astimezone(UTC)
        return in_utc.replace(tzinfo=None) if dialect.name == "sqlite" else in_utc

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy passes it
    ) -> datetime | None:
        """Restore the zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class database_now(FunctionElement[datetime]):  # noqa: N801 - named as the SQL function that it is
    """The database's clock at the moment the statement runs, `offset_s` seconds from now."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, offset_s: float = 0.0) -> None:
        super().__init__(literal(float(offset_s)))


@compiles(database_now, "postgresql")
def _postgresql_now(element: database_now, compiler: SQLCompiler, **keywords: Any) -> str:
    # Not now(), which is constant during a transaction.
    seconds = compiler.process(element.clauses, **keywords)
    return f"(clock_timestamp() + make_interval(secs => {seconds}))"


@compiles(database_now, "sqlite")
def _sqlite_now(element: database_now, compiler: SQLCompiler, **keywords: Any) -> str:
    seconds = compiler.process(element.clauses, **keywords)
    return f"strftime('{_SQLITE_FORMAT}', 'now', {seconds} || ' seconds')"
