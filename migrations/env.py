"""Run by Alembic: on the connection it is handed, or, by hand, on the one ZOO_DATABASE_URL names."""

import os

from alembic import context
from sqlalchemy import Connection

from registry.database.database import Database
from registry.records import models
from registry.settings import Settings


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=models.AdapterRow.metadata,
        # SQLite alters a table by copying it.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


def _main() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _run(connection)
        return
    with (
        Database(Settings.from_env(os.environ)) as database,
        database.writing_connection() as own_connection,
    ):
        _run(own_connection)


_main()
