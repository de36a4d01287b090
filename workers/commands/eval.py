"""`zoo eval`: scores of adapters, base models and compositions on datasets."""

from pathlib import Path

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from registry.registration.datasets import Reading
from workers.commands.field_options import field_options
from workers.commands.reading_options import reading_options
from workers.commands.running import Submission, run_job, submission_options
from workers.requests.evaluation import AskedTask, evaluation_request
from workers.requests.specs import EvalSpec


@click.command()
@click.argument("subjects", nargs=-1, required=True)
@click.option(
    "--data", multiple=True, required=True, help="Dataset or file of examples; task=DATASET names the task."
)
@field_options(EvalSpec, "limit", "batch_tokens")
@reading_options
@submission_options
@output_options
def command(
    subjects: tuple[str, ...],
    data: tuple[str, ...],
    limit: int | None,
    batch_tokens: int,
    reading: Reading,
    submission: Submission,
    output: Output,
) -> None:
    """Score SUBJECTS on held-out data; the scores land on their records.

    Example: zoo eval bio protein --data bio.eval
    """
    with opened() as registry:
        spec = evaluation_request(
            registry,
            subjects=subjects,
            tasks=[_asked_task(given) for given in data],
            reading=reading,
            say=output.hint,
            limit=limit,
            batch_tokens=batch_tokens,
        )
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
        output.notes(job.outcome.get("warnings", ()))


def _asked_task(given: str) -> AskedTask:
    task, separator, reference = given.partition("=")
    # A path may hold the sign itself.
    if not separator or Path(given).exists():
        return AskedTask(data=given)
    return AskedTask(data=reference, task=task)
