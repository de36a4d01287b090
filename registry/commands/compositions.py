"""`zoo compositions`: list, show and remove X-LoRA models, and point aliases to them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from registry.commands.bill import print_bill, sbom_option
from registry.commands.managing import (
    add_aliases,
    add_removal,
    include_removed_option,
    limit_option,
    opened,
    reading,
)
from registry.commands.output import Output, output_options
from registry.commands.report_table import change_rows, score_rows, verdict_lines
from registry.commands.uses import add_uses
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
@sbom_option
@output_options
def show(reference: str, sbom: bool, output: Output) -> None:
    """Show one composition version: experts, method, and its report.

    Example: zoo compositions show science
    """
    with opened() as registry:
        if sbom:
            print_bill(registry, registry.compositions.get(reference, include_deleted=True), output)
            return
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


@command.command()
@click.argument("reference")
@click.option("--open", "opens", is_flag=True, help="Show it as a page in the browser.")
@click.option(
    "--to",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the page to this file.",
)
@output_options
def report(reference: str, opens: bool, to: Path | None, output: Output) -> None:
    """Was composing worth it: verdicts, scores, what each expert contributes; a page with pictures.

    Example: zoo compositions report science --open
    """
    with opened() as registry:
        composition = registry.compositions.get(reference)
        home = registry.settings.home
    found = composition.report
    if to is not None or opens:
        page = to or home / "cache" / "reports" / f"{composition.reference}.html"
        _write_page(found, composition.reference, page)
        output.hint(f"page: {page}")
        if opens and click.launch(str(page)):
            output.hint("no browser could be opened; open the page yourself")
    if not output.is_human:
        output.emit_made(composition.reference, {"reference": composition.reference, **found})
        return
    output.table(score_rows(found) or [{"report": "none"}])
    output.section("changed: loss / exact match in points", change_rows(found))
    for line in verdict_lines(found):
        click.echo(line)
    if to is None and not opens:
        output.hint(f"with charts: zoo compositions report {reference} --open")


def _write_page(report: Mapping[str, Any], title: str, page: Path) -> None:
    from registry.reports.page import report_page

    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(report_page(report, title=title), encoding="utf-8")


add_uses(command, "composition")
add_removal(command, lambda registry: registry.compositions)
add_aliases(command, lambda registry: registry.compositions)


def _fields(details: Mapping[str, Any], *, of: str = "") -> Iterator[dict[str, object]]:
    """The method's own fields, one for each line: `config.xlora_depth`."""
    for name, value in details.items():
        if isinstance(value, Mapping):
            yield from _fields(value, of=f"{of}{name}.")
        else:
            yield {"field": f"{of}{name}", "value": value}
