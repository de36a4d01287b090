"""`zoo compositions`: list, show and remove X-LoRA models, and point aliases to them."""

from collections.abc import Iterator, Mapping
from typing import Any

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
from registry.commands.report_table import score_rows, verdict_lines
from registry.lists import queries

_COLUMNS = ("reference", "base", "method", "experts", "aliases", "job_id", "created_at")
_PARTS = ("experts", "report", "files", "method_details")


@click.group(name="compositions")
def command() -> None:
    """X-LoRA models and their reports."""


@command.command()
@click.option("--base", help="Only those of this base model.")
@include_removed_option
@limit_option
@output_options
def ls(base: str | None, include_removed: bool, limit: int | None, output: Output) -> None:
    """List composition versions.

    Example: zoo compositions ls --base smollm2
    """
    with reading() as reader:
        rows = queries.compositions(reader, base=base, include_deleted=include_removed, limit=limit)
    output.emit(
        rows,
        key="reference",
        columns=(*_COLUMNS, *(("state",) if include_removed else ())),
        empty="no compositions; make one with: zoo compose --help",
    )


@command.command()
@click.argument("reference")
@output_options
def show(reference: str, output: Output) -> None:
    """Show one composition version: experts, method, and its report.

    Example: zoo compositions show science
    """
    with opened() as registry:
        details = registry.compositions.details(reference)
    if not output.is_human:
        output.emit_record(details, key="reference")
        return
    output.emit_record({name: value for name, value in details.items() if name not in _PARTS})
    output.section("experts", details["experts"], columns=("position", "name", "adapter_reference"))
    output.section(f"method {details['method']}", list(_fields(details["method_details"])))
    output.section("loss / exact match on held-out data", score_rows(details["report"]))
    for line in verdict_lines(details["report"]):
        click.echo(line)
    output.section("files", details["files"])


add_removal(command, lambda registry: registry.compositions)
add_aliases(command, lambda registry: registry.compositions)


def _fields(details: Mapping[str, Any], *, of: str = "") -> Iterator[dict[str, object]]:
    """The method's own fields, one for each line: `config.xlora_depth`."""
    for name, value in details.items():
        if isinstance(value, Mapping):
            yield from _fields(value, of=f"{of}{name}.")
        else:
            yield {"field": f"{of}{name}", "value": value}
