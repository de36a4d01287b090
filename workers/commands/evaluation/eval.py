"""`zoo eval`: scores of adapters, base models and compositions on datasets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from registry.registration.datasets import Reading
from workers.commands.field_options import field_options
from workers.commands.reading_options import reading_options
from workers.commands.running import Submission, run_job, submission_options
from workers.requests.evaluation import AskedTask, evaluation_request
from workers.requests.specs import EvalSpec

_DIFFERENCE_COLUMNS = ("subject", "against", "task", "metric", "difference", "low", "high", "n", "verdict")


@click.command()
@click.argument("subjects", nargs=-1, required=True)
@click.option("--data", multiple=True, help="Dataset or file of examples; task=DATASET names the task.")
@click.option("--metrics", help="What to measure, with commas; `all`, or what suits the data if left out.")
@click.option("--baseline", help="Compare with this subject, example by example; `base`: their base model.")
@field_options(EvalSpec, "limit", "batch_tokens", "max_new_tokens", "tolerance")
@click.option("--lm-eval", help="Tasks of lm-evaluation-harness, with commas.")
@click.option(
    "--include-path",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Folder with YAML tasks of your own for it.",
)
@field_options(EvalSpec, "fewshot", "chat_template")
@reading_options
@submission_options
@output_options
def command(
    subjects: tuple[str, ...],
    data: tuple[str, ...],
    metrics: str | None,
    baseline: str | None,
    limit: int | None,
    batch_tokens: int,
    max_new_tokens: int | None,
    tolerance: float,
    lm_eval: str | None,
    include_path: str | None,
    fewshot: int | None,
    chat_template: bool,
    reading: Reading,
    submission: Submission,
    output: Output,
) -> None:
    """Score SUBJECTS on held-out data; the scores land on their records.

    Example: zoo eval bio protein --data bio.eval --baseline base
    """
    if not data and lm_eval is None:
        raise click.UsageError("give --data, or --lm-eval with a task of lm-evaluation-harness")
    with opened() as registry:
        spec = evaluation_request(
            registry,
            subjects=subjects,
            tasks=[asked_task(given) for given in data],
            baseline=baseline,
            reading=reading,
            say=output.hint,
            metrics=_names(metrics),
            limit=limit,
            batch_tokens=batch_tokens,
            max_new_tokens=max_new_tokens,
            tolerance=tolerance,
            lm_eval=_names(lm_eval),
            include_path=include_path,
            fewshot=fewshot,
            chat_template=chat_template,
        )
        job = run_job(registry, spec, output=output, submission=submission)
    if job is not None:
        _show(job.outcome, output)


def _names(given: str | None) -> tuple[str, ...]:
    return () if given is None else tuple(filter(None, (name.strip() for name in given.split(","))))


def asked_task(given: str) -> AskedTask:
    """`task=DATASET`, or a dataset or file whose task is named after it."""
    task, separator, reference = given.partition("=")
    # A path may hold the sign itself.
    if not separator or Path(given).exists():
        return AskedTask(data=given)
    return AskedTask(data=reference, task=task)


def _show(outcome: Mapping[str, Any], output: Output) -> None:
    rows = [
        {"subject": subject, "task": task, **score}
        for subject, by_task in outcome["scores"].items()
        for task, score in by_task.items()
    ]
    differences: Sequence[Mapping[str, Any]] = outcome.get("differences", ())
    if output.is_human:
        output.table(list(map(_readable, _same_columns(rows))))
        output.section("less the baseline", differences, columns=_DIFFERENCE_COLUMNS)
    else:
        output.emit([_with_differences(row, differences) for row in rows], key="subject")
    output.notes(outcome.get("warnings", ()))


def _same_columns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tasks may have different metrics."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values with their standard errors: `0.7841 ± 0.012`."""
    errors = row["standard_errors"]
    return {
        name: f"{value:.4g} ± {errors[name]:.2g}" if errors.get(name) and value is not None else value
        for name, value in row.items()
        if name != "standard_errors"
    }


def _with_differences(row: Mapping[str, Any], differences: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    own = [
        {name: value for name, value in difference.items() if name not in ("subject", "task")}
        for difference in differences
        if (difference["subject"], difference["task"]) == (row["subject"], row["task"])
    ]
    return {**row, "differences": own} if own else row
