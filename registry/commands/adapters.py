"""`zoo adapters`: list, show, compare and remove adapters, and point aliases to them."""

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
from registry.commands.uses import add_uses
from registry.lists import queries

_COLUMNS = ("reference", "base", "rank", "domains", "aliases", "effect_score", "size_bytes", "created_at")
_PARTS = ("evaluations", "files", "parameters", "modules", "warnings")
_EVALUATION_COLUMNS = ("task", "metric", "value", "standard_error", "n", "created_at")


@click.group(name="adapters")
def command() -> None:
    """LoRA adapters and their versions."""


@command.command()
@click.option("--base", help="Only those of this base model.")
@click.option("--domain", help="Only those for this domain.")
@click.option("--tag", help="Only those with this tag.")
@click.option("--search", help="Only those whose name, labels, description or card have these words.")
@click.option("--sort", default="name", show_default=True, help="name, created or eval:<task>[:<metric>].")
@include_removed_option
@limit_option
@output_options
def ls(
    base: str | None,
    domain: str | None,
    tag: str | None,
    search: str | None,
    sort: str,
    include_removed: bool,
    limit: int | None,
    output: Output,
) -> None:
    """List adapter versions.

    Example: zoo adapters ls --base smollm2 --sort eval:bio
    """
    with reading() as reader:
        rows = queries.adapters(
            reader,
            base=base,
            domain=domain,
            tag=tag,
            search=search,
            include_deleted=include_removed,
            sort=sort,
            limit=limit,
        )
    scored = ("metric", "score") if sort.startswith("eval:") else ()
    state = ("state",) if include_removed else ()
    output.emit(
        rows,
        key="reference",
        columns=(*_COLUMNS[:4], *scored, *_COLUMNS[4:], *state),
        empty="no adapters; train one with: zoo train --help",
    )


@command.command()
@click.argument("reference")
@sbom_option
@output_options
def show(reference: str, sbom: bool, output: Output) -> None:
    """Show one adapter version: facts, lineage, evaluations, aliases, files.

    Example: zoo adapters show bio@champion
    """
    with opened() as registry:
        if sbom:
            print_bill(registry, registry.adapters.get(reference, include_deleted=True), output)
            return
        details = registry.adapters.details(reference)
    if not output.is_human:
        output.emit_record(details, key="reference")
        return
    shown = {name: value for name, value in details.items() if name not in _PARTS}
    output.emit_record({**shown, "modules": len(details["modules"])})
    output.section(
        "trained with", [{"setting": name, "value": value} for name, value in details["parameters"].items()]
    )
    output.section("evaluations", details["evaluations"], columns=_EVALUATION_COLUMNS)
    output.section("files", details["files"])
    for warning in details["warnings"]:
        output.hint(f"note: {warning}")


@command.command()
@click.argument("left")
@click.argument("right")
@output_options
def diff(left: str, right: str, output: Output) -> None:
    """Show the differences of two adapter versions: settings, weights, scores.

    Example: zoo adapters diff bio@2 bio@3
    """
    with opened() as registry:
        rows = registry.adapters.diff(left, right)
    output.emit(rows, key="field", empty=f"{left} and {right} do not differ")


add_uses(command, "adapter")
add_removal(command, lambda registry: registry.adapters)
add_aliases(command, lambda registry: registry.adapters)
