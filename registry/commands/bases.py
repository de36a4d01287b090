"""`zoo bases`: list, show, remove and restore base models."""

import click

from registry.commands.managing import add_removal, include_removed_option, limit_option, opened, reading
from registry.commands.output import Output, output_options
from registry.commands.uses import add_uses
from registry.lists import queries

_COLUMNS = ("reference", "architecture", "parameter_count", "layer_count", "dtype", "licence", "size_bytes")


@click.group(name="bases")
def command() -> None:
    """Base models."""


@command.command()
@include_removed_option
@limit_option
@output_options
def ls(include_removed: bool, limit: int | None, output: Output) -> None:
    """List base models.

    Example: zoo bases ls --json
    """
    with reading() as reader:
        rows = queries.bases(reader, include_deleted=include_removed, limit=limit)
    output.emit(
        rows,
        key="reference",
        columns=(*_COLUMNS, *(("state",) if include_removed else ()), "created_at"),
        empty="no base models; register one with: zoo register base --help",
    )


@command.command()
@click.argument("reference")
@output_options
def show(reference: str, output: Output) -> None:
    """Show one base model: facts, digests, files, the adapters made for it.

    Example: zoo bases show smollm2
    """
    with opened() as registry:
        details = registry.bases.details(reference)
    if not output.is_human:
        output.emit_record(details, key="name")
        return
    output.emit_record(
        {
            **{name: value for name, value in details.items() if name not in ("files", "modules")},
            "modules": len(details["modules"]),
        }
    )
    output.section("files", details["files"])


add_uses(command, "base")
add_removal(command, lambda registry: registry.bases)
