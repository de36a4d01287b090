"""The database: whether it answers, has this release's schema, accepts writes, and agrees on the time."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from migrations import HEAD, REVISIONS
from registry.database.database import Database
from registry.database.schema import stored_revision
from registry.database.sqlite_location import require_location
from registry.database.times import database_now
from registry.errors import DatabaseUnreachable, InvalidSetting
from registry.settings import Settings
from workers.checks import sqlite_file
from workers.checks.findings import Finding, fault, ok, warning

#: Leases depend on the database's clock alone; times that people see also on this machine's.
_SKEW_LIMIT_S = 2.0
#: PostgreSQL's version number of the oldest release that still gets fixes.
_OLDEST_SUPPORTED = 140_000


def check(settings: Settings) -> Iterator[Finding]:
    """The database that ZOO_DATABASE_URL names; nothing in it is changed."""
    path = settings.sqlite_path
    try:
        require_location(settings)
    except InvalidSetting as error:
        yield fault("database", str(error), fix="correct ZOO_HOME or ZOO_DATABASE_URL")
        return
    if path is not None and not path.exists():
        yield ok("database", f"{path}, which the first command that writes creates")
        return
    if path is not None and (stuck := sqlite_file.stuck(path)):
        yield stuck
        return
    try:
        with Database(settings) as database:
            with database.read() as session:
                yield from _read(session.connection())
            yield _written(database)
    except DatabaseUnreachable as error:
        yield fault("database", str(error), fix=_start(settings), unreachable=True)


def _read(connection: Connection) -> Iterator[Finding]:
    yield of_revision(stored_revision(connection))
    if connection.dialect.name == "postgresql":
        version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
        if version < _OLDEST_SUPPORTED:
            yield warning(
                "database",
                f"PostgreSQL {version // 10_000} gets no fixes any more",
                fix=f"move to PostgreSQL {_OLDEST_SUPPORTED // 10_000} or newer",
            )
        yield of_skew(_skew_s(connection))


def of_revision(stored: str | None) -> Finding:
    """Whether the schema is this release's."""
    if stored == HEAD:
        return ok("database", f"answers, at revision {stored}")
    if stored is None:
        return warning("database", "answers, but has no tables", fix="zoo migrate")
    if stored in REVISIONS:
        return warning("database", f"is at revision {stored}, this release needs {HEAD}", fix="zoo migrate")
    return fault(
        "database",
        f"is at revision {stored}, this release knows revisions up to {HEAD}",
        fix="pip install --upgrade adapter-zoo",
    )


def of_skew(skew_s: float) -> Finding:
    """Whether this machine's clock agrees with the database's; `skew_s` is positive where ours is ahead."""
    if abs(skew_s) <= _SKEW_LIMIT_S:
        return ok("database", f"its clock and ours differ by {abs(skew_s):.1f} s")
    side = "ahead of" if skew_s > 0 else "behind"
    return warning(
        "database",
        f"this machine's clock is {abs(skew_s):.0f} s {side} the database's",
        fix="timedatectl set-ntp true",
    )


def _skew_s(connection: Connection) -> float:
    asked_at, asked = time.time(), time.monotonic()
    theirs = connection.execute(select(database_now())).scalar_one()
    # The database read its clock at some moment in between.
    ours = datetime.fromtimestamp(asked_at + (time.monotonic() - asked) / 2, UTC)
    return (ours - theirs).total_seconds()


def _written(database: Database) -> Finding:
    """Try a write, and roll it back."""
    try:
        with database.writing_connection() as connection:
            if stored_revision(connection) is None:
                connection.execute(text("CREATE TABLE zoo_doctor (written INTEGER)"))
            else:
                connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
            connection.rollback()
    except DBAPIError as error:
        return fault(
            "database",
            f"refuses writes: {str(error.orig).partition(chr(10))[0]}",
            fix="point ZOO_DATABASE_URL to the primary, with an account that owns the tables",
        )
    return ok("database", "accepts writes")


def _start(settings: Settings) -> str:
    if settings.sqlite_path is not None:
        return f"find the processes that use it: fuser -v {settings.sqlite_path}"
    return "start it: docker compose up -d postgres, or correct ZOO_DATABASE_URL"
