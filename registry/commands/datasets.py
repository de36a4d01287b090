"""`zoo datasets`: list, show and remove datasets, and point aliases to them."""

import click

from registry.commands.managing import (
    add_aliases,
    add_removal,
    include_removed_option,
    limit_option,
    opened,
    reading,
)
from registry.commands.output import Output, output_options
from registry.commands.uses import add_uses
from registry.lists import queries

_COLUMNS = ("reference", "domain", "split", "examples", "licence", "aliases", "size_bytes", "created_at")


@click.group(name="datasets")
def command() -> None:
    """Datasets and their versions."""


@command.command()
@click.option("--domain", help="Only those of this domain.")
@include_removed_option
@limit_option
@output_options
def ls(domain: str | None, include_removed: bool, limit: int | None, output: Output) -> None:
    """List dataset versions.

    Example: zoo datasets ls --domain bio
    """
    with reading() as reader:
        rows = queries.datasets(reader, domain=domain, include_deleted=include_removed, limit=limit)
    output.emit(
        rows,
        key="reference",
        columns=(*_COLUMNS, *(("state",) if include_removed else ())),
        empty="no datasets; register one with: zoo register dataset FILE.jsonl",
    )


@command.command()
@click.argument("reference")
@output_options
def show(reference: str, output: Output) -> None:
    """Show one dataset version: facts, digest, aliases, and the adapters trained on it.

    Example: zoo datasets show bio.train
    """
    with opened() as registry:
        details = registry.datasets.details(reference)
    if not output.is_human:
        output.emit_record(details, key="reference")
        return
    reading = dict(details["reading"])
    given = reading.pop("files", [])
    facts = {name: value for name, value in details.items() if name not in ("files", "reading")}
    output.emit_record({**facts, **reading})
    output.section("files", details["files"])
    if given:
        output.section("read from", given)


add_uses(command, "dataset")
add_removal(command, lambda registry: registry.datasets)
add_aliases(command, lambda registry: registry.datasets)
