"""`zoo schema`: what a request may say, as a JSON Schema."""

import json

import click

from workers.requests.specs import SPECS, file_schema_of


@click.command()
@click.argument("kind", type=click.Choice(list(SPECS)))
def command(kind: str) -> None:
    """Print the JSON Schema of a request of this KIND, for editors and for checks of one's own.

    Example: zoo schema train > train.schema.json
    """
    click.echo(json.dumps(file_schema_of(kind), indent=2, ensure_ascii=False))
