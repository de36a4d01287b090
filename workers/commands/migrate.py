"""`zoo migrate`: upgrade the database to this release's schema, as a step of a deployment."""

import os

import click

from migrations import HEAD
from registry.commands.output import Output, output_options
from registry.database.sqlite_location import require_location
from registry.settings import Settings


@click.command()
@output_options
def command(output: Output) -> None:
    """Create the database's tables, or upgrade them to this release; a current database stays as it is.

    Any command does the same when it first opens the database. A deployment does it once, before its workers
    start.

    Example: zoo migrate
    """
    from registry.database.database import Database
    from registry.database.schema import ensure_current, stored_revision
    from registry.service import create_home

    settings = Settings.from_env(os.environ)
    require_location(settings)
    create_home(settings.home)
    with Database(settings) as database:
        with database.read() as session:
            before = stored_revision(session.connection())
        ensure_current(database)
    output.emit_made(HEAD, {"from": before, "to": HEAD})
