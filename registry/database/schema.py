"""Upgrading a database to this release's schema, once, however many processes try. Knows no tables."""

from sqlalchemy import Connection, inspect, text

from migrations import HEAD, REVISIONS, SCRIPT_LOCATION
from registry.database.database import Database
from registry.database.revisions import refuse_newer, refuse_other

_VERSION_TABLE = "alembic_version"

#: An arbitrary number that every process uses.
_ADVISORY_LOCK = 8_020_240_207_148


def ensure_current(database: Database) -> None:
    """Migrate an empty or older database to the newest revision; a current one stays as it is.

    Raises:
        SchemaMismatch: a newer release has written the database.
        DatabaseUnreachable: it does not answer.
    """
    with database.read() as session:
        if stored_revision(session.connection()) == HEAD:
            return
    with database.writing_connection() as connection:
        # Held until the transaction ends: a second process waits here, then finds the schema current.
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        stored = stored_revision(connection)
        refuse_newer(stored)
        if stored != HEAD:
            migrate(connection, to=HEAD)


def ensure_same(connection: Connection) -> None:
    """Refuse a database that another release has migrated since it was opened.

    Raises:
        SchemaMismatch: the stored revision is not this release's.
    """
    # The table's name is a constant of ours.
    refuse_other(connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar())  # noqa: S608


def migrate(connection: Connection, *, to: str) -> None:
    """Run the migrations between the stored revision and `to`, up or down, in the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPT_LOCATION).replace("%", "%%"))
    config.attributes["connection"] = connection
    stored = stored_revision(connection)
    if _position(to) < _position(stored):
        command.downgrade(config, to)
    else:
        command.upgrade(config, to)


def stored_revision(connection: Connection) -> str | None:
    """The revision of the database; None for one without tables."""
    if not inspect(connection).has_table(_VERSION_TABLE):
        return None
    # The table's name is a constant of ours.
    revision = connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar()  # noqa: S608
    return None if revision is None else str(revision)


def _position(revision: str | None) -> int:
    return REVISIONS.index(revision) if revision in REVISIONS else -1
