"""`zoo eval`: scores of adapters, base models and compositions on datasets."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from registry.commands.output import Output, output_options
from workers.commands.field_options import field_options
from workers.commands.running import Submission, run_job, submission_options
from workers.requests.specs import EvalSpec

if TYPE_CHECKING:
    from registry.service import Registry
    from workers.requests.datasets import GivenDataset


@click.command()
@click.argument("subjects", nargs=-1, required=True)
@click.option(
    "--data", multiple=True, required=True, help="Dataset or JSONL file; task=DATASET names the task."
)
@field_options(EvalSpec, "limit", "batch_tokens")
@submission_options
@output_options
def command(
    subjects: tuple[str, ...],
    data: tuple[str, ...],
    limit: int | None,
    batch_tokens: int,
    submission: Submission,
    output: Output,
) -> None:
    """Score SUBJECTS on held-out data; the scores land on their records.

    Example: zoo eval bio protein --data bio.eval
    """
    from registry.commands.managing import opened
    from workers.requests.subjects import find, subject_of

    with opened() as registry:
        tasks = _tasks(registry, data)
        asked = EvalSpec(
            subjects=tuple(subject_of(find(registry, subject)) for subject in subjects),
            datasets={task: given.name for task, given in tasks.items()},
            limit=limit,
            batch_tokens=batch_tokens,
        )
        # Only a request that holds puts files on record.
        on_record = {task: given.register(registry).reference for task, given in tasks.items()}
        spec = replace(asked, datasets=on_record)
        job = run_job(registry, spec, output=output, submission=submission)
    if job is not None:
        output.emit(
            [
                {"subject": subject, "task": task, **score}
                for subject, by_task in job.outcome["scores"].items()
                for task, score in by_task.items()
            ],
            key="subject",
        )


def _tasks(registry: "Registry", data: tuple[str, ...]) -> "dict[str, GivenDataset]":
    from workers.requests.datasets import given_dataset

    tasks = {}
    for given in data:
        name, separator, reference = given.partition("=")
        dataset = given_dataset(registry, reference if separator else given)
        task = name if separator else dataset.domain or dataset.name
        if task in tasks:
            raise click.BadParameter(
                f"two datasets for the task {task}; name them: task=DATASET", param_hint="--data"
            )
        tasks[task] = dataset
    return tasks
