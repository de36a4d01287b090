"""`zoo datasets`: look at datasets, remove them, point aliases to them."""

from dataclasses import asdict

import click

from registry.commands.managing import (
    add_aliases,
    add_removal,
    here,
    include_removed_option,
    limit_option,
    opened,
)
from registry.commands.output import Output, output_options
from registry.lists import queries

_COLUMNS = ("reference", "domain", "split", "examples", "licence", "aliases", "size_bytes", "created_at")


@click.group(name="datasets")
def command() -> None:
    """Datasets and their versions."""


@command.command()
@click.option("--domain", help="Only those about this domain.")
@include_removed_option
@limit_option
@output_options
def ls(domain: str | None, include_removed: bool, limit: int | None, output: Output) -> None:
    """List dataset versions.

    Example: zoo datasets ls --domain bio
    """
    output.emit(
        queries.datasets(here(), domain=domain, include_deleted=include_removed, limit=limit),
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
        dataset = registry.datasets.get(reference, include_deleted=True)
        aliases = registry.datasets.aliases(dataset.name)
        trained = registry.adapters.list(trained_on=dataset.reference)
    details = {
        "reference": dataset.reference,
        **asdict(dataset),
        "aliases": [alias.alias for alias in aliases if alias.version == dataset.version],
        "trained": [adapter["reference"] for adapter in trained],
    }
    if not output.is_human:
        output.emit_record(details, key="reference")
        return
    output.emit_record({name: value for name, value in details.items() if name != "files"})
    output.section("files", details["files"])


add_removal(command, lambda registry: registry.datasets)
add_aliases(command, lambda registry: registry.datasets)
