"""`zoo adapters`: look at adapters, compare them, remove them, point aliases to them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from registry.entities import AdapterVersion, Evaluation
    from registry.service import Registry

_COLUMNS = ("reference", "base", "rank", "domains", "aliases", "effect_score", "size_bytes", "created_at")
#: fields that tell two versions apart by themselves, or are shown in parts of their own
_NOT_COMPARED = ("id", "name", "version", "created_at", "files", "modules", "job_id", "state")


@click.group(name="adapters")
def command() -> None:
    """LoRA adapters and their versions."""


@command.command()
@click.option("--base", help="Only those of this base model.")
@click.option("--domain", help="Only those for this domain.")
@click.option("--sort", default="name", show_default=True, help="name, created or eval:<task>[:<metric>].")
@include_removed_option
@limit_option
@output_options
def ls(
    base: str | None, domain: str | None, sort: str, include_removed: bool, limit: int | None, output: Output
) -> None:
    """List adapter versions.

    Example: zoo adapters ls --base smollm2 --sort eval:bio
    """
    rows = queries.adapters(
        here(), base=base, domain=domain, include_deleted=include_removed, sort=sort, limit=limit
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
@output_options
def show(reference: str, output: Output) -> None:
    """Show one adapter version: facts, lineage, evaluations, aliases, files.

    Example: zoo adapters show bio@champion
    """
    with opened() as registry:
        adapter = registry.adapters.get(reference, include_deleted=True)
        details = _details(registry, adapter)
    if not output.is_human:
        output.emit_record(details, key="reference")
        return
    parts = ("evaluations", "files", "parameters", "modules", "warnings")
    output.emit_record(
        {
            **{name: value for name, value in details.items() if name not in parts},
            "modules": len(adapter.modules),
        }
    )
    output.section(
        "trained with", [{"setting": name, "value": value} for name, value in adapter.parameters.items()]
    )
    output.section("evaluations", details["evaluations"], columns=_EVALUATION_COLUMNS)
    output.section("files", details["files"])
    for warning in adapter.warnings:
        output.hint(f"note: {warning}")


_EVALUATION_COLUMNS = ("task", "metric", "value", "standard_error", "n", "created_at")


@command.command()
@click.argument("left")
@click.argument("right")
@output_options
def diff(left: str, right: str, output: Output) -> None:
    """Show in what two adapter versions differ: settings, weights, scores.

    Example: zoo adapters diff bio@2 bio@3
    """
    with opened() as registry:
        sides = [registry.adapters.get(reference, include_deleted=True) for reference in (left, right)]
        facts = [{**_compared(side), **_scores(registry, side)} for side in sides]
    rows = [
        {"field": field, left: facts[0].get(field), right: facts[1].get(field)}
        for field in dict.fromkeys((*facts[0], *facts[1]))
        if facts[0].get(field) != facts[1].get(field)
    ]
    output.emit(rows, key="field", empty=f"{sides[0].reference} and {sides[1].reference} are alike")


add_removal(command, lambda registry: registry.adapters)
add_aliases(command, lambda registry: registry.adapters)


def _details(registry: "Registry", adapter: "AdapterVersion") -> dict[str, Any]:
    pointing = [
        alias.alias for alias in registry.adapters.aliases(adapter.name) if alias.version == adapter.version
    ]
    experts_of = [
        composition["reference"] for composition in registry.compositions.list(expert=adapter.reference)
    ]
    return {
        "reference": adapter.reference,
        **asdict(adapter),
        "aliases": pointing,
        "expert_of": experts_of,
        "evaluations": [asdict(evaluation) for evaluation in _evaluations(registry, adapter)],
    }


def _evaluations(registry: "Registry", adapter: "AdapterVersion") -> "tuple[Evaluation, ...]":
    return registry.evaluations.list(f"adapter:{adapter.reference}")


def _compared(adapter: "AdapterVersion") -> Mapping[str, Any]:
    facts = {name: value for name, value in asdict(adapter).items() if name not in _NOT_COMPARED}
    settings = facts.pop("parameters")
    return {**facts, **{f"parameters.{name}": value for name, value in settings.items()}}


def _scores(registry: "Registry", adapter: "AdapterVersion") -> Mapping[str, float]:
    # The newest comes first, so older ones are put in before it.
    newest_last = reversed(_evaluations(registry, adapter))
    return {f"eval:{found.task}:{found.metric}": found.value for found in newest_last}
