"""`zoo evals`: what was measured, and the examples behind a value, the worst first."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from registry.commands.managing import limit_option, opened
from registry.commands.numbers import COUNT, LARGEST_INTEGER
from registry.commands.output import Output, output_options
from registry.entities import Evaluation
from registry.lists.queries import LOWER_IS_BETTER

_COLUMNS = ("id", "subject", "task", "metric", "value", "standard_error", "n", "created_at")
_VALUE_COLUMNS = ("id", "metric", "value", "standard_error", "n")
#: Beside the metric's own column, of what an example holds.
_EXAMPLE_COLUMNS = ("line", "loss", "exact_match", "question", "expected", "answer")
#: Characters of a text in a table.
_SHOWN = 60


@click.group(name="evals")
def command() -> None:
    """Measured values, and the examples behind them."""


@command.command()
@click.option("--subject", help="Only those of it, such as adapter:bio@3 or base:smollm2.")
@click.option("--task", help="Only those of this task.")
@click.option("--metric", help="Only those of this metric.")
@limit_option
@output_options
def ls(subject: str | None, task: str | None, metric: str | None, limit: int | None, output: Output) -> None:
    """List measured values, the newest first.

    Example: zoo evals ls --task bio --metric loss
    """
    with opened() as registry:
        found = registry.evaluations.list(subject, task=task, metric=metric, limit=limit)
    output.emit(
        [_as_row(evaluation) for evaluation in found],
        key="id",
        columns=_COLUMNS,
        empty="no evaluations; make one with: zoo eval --help",
    )


@command.command()
@click.argument("number", metavar="ID", type=click.IntRange(1, LARGEST_INTEGER))
@click.option("--limit", type=COUNT, default=10, show_default=True, help="Examples shown, the worst first.")
@output_options
def show(number: int, limit: int, output: Output) -> None:
    """Show a measurement by the id of one of its values: settings, values, and the worst examples by it.

    Example: zoo evals show 12 --limit 20
    """
    with opened() as registry:
        evaluation = registry.evaluations.get(number)
        together = registry.evaluations.measured_with(evaluation)
        cache = registry.settings.home / "cache"
        examples = worst_first(registry.evaluations.examples(evaluation, cache=cache), evaluation.metric)
        run = None if evaluation.job_id is None else registry.jobs.get(evaluation.job_id).run_id
    facts = {**_as_row(evaluation), "run_id": evaluation.run_id or run}
    if not output.is_human:
        values = [{name: getattr(each, name) for name in _VALUE_COLUMNS} for each in together]
        output.emit_record({**facts, "values": values, "examples": examples[:limit]}, key="id")
        return
    output.emit_record(facts)
    output.section("measured together", [_as_row(each) for each in together], columns=_VALUE_COLUMNS)
    columns = list(dict.fromkeys(["line", evaluation.metric, *_EXAMPLE_COLUMNS]))
    shown = [name for name in columns if any(name in example for example in examples)]
    title = f"examples, the worst first ({min(limit, len(examples))} of {len(examples)})"
    output.section(title, [_shortened(example, shown) for example in examples[:limit]])
    if not examples:
        output.hint("its examples were not kept")


def worst_first(examples: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Examples by a metric's own column where they have one, the worst first, then by their loss."""
    lower_is_better = metric in LOWER_IS_BETTER

    def badness(example: Mapping[str, Any]) -> tuple[float, float]:
        own = example.get(metric)
        value = 0.0 if own is None else float(own) if lower_is_better else -float(own)
        return value, float(example.get("loss") or 0.0)

    return sorted(examples, key=badness, reverse=True)


def _as_row(evaluation: Evaluation) -> dict[str, Any]:
    facts = {name: value for name, value in vars(evaluation).items() if name != "files"}
    return {"id": evaluation.id, **facts}


def _shortened(example: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: _short(example.get(name)) for name in names}


def _short(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    line = " ".join(value.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
