"""`zoo train`: one adapter from one dataset."""

from typing import Any

import click
from click.core import ParameterSource

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from registry.registration.datasets import Reading
from workers.commands.field_options import field_options
from workers.commands.lists import split_list, weighted_reference
from workers.commands.reading_options import reading_options
from workers.commands.running import Submission, run_job, submission_options
from workers.requests.specs import TrainSpec
from workers.requests.training import training_request

#: Options of `zoo train` that are fields of its request, which says their types, ranges and defaults.
TRAINING_OPTIONS = (
    "rank",
    "alpha",
    "dropout",
    "learning_rate",
    "steps",
    "batch_size",
    "processes",
    "warmup_steps",
    "weight_decay",
    "seed",
    "max_tokens",
    "long_examples",
    "answers",
    "checkpoint_every_s",
    "inactive_prefix",
)


@click.command()
@click.option("--name", required=True, help="Name of the adapter; a taken name gets its next version.")
@click.option("--base", required=True, help="Base model: a name of `zoo bases ls`.")
@click.option("--data", required=True, help="Training data: a dataset's name, or a file to register.")
@click.option(
    "--further-data",
    multiple=True,
    help="More training data; REF=0.5 meets each of its examples half as often as one of --data.",
)
@click.option("--eval-data", help="Held-out data on which the trained adapter is scored.")
@click.option(
    "--domain", "domains", multiple=True, help="Domain of the adapter; the data's domain if left out."
)
@click.option(
    "--target-modules", default="all-linear", show_default=True, help="Layers to adapt, separated by commas."
)
@click.option("--licence", help="Licence of the adapter.")
@click.option("--description", default="", help="Notes for others.")
@field_options(TrainSpec, *TRAINING_OPTIONS)
@reading_options
@submission_options
@output_options
def command(
    name: str,
    base: str,
    data: str,
    eval_data: str | None,
    further_data: tuple[str, ...],
    domains: tuple[str, ...],
    reading: Reading,
    target_modules: str,
    submission: Submission,
    output: Output,
    **settings: Any,
) -> None:
    """Train a LoRA adapter and register it.

    Example: zoo train --name bio --base smollm2 --data bio.train.jsonl --eval-data bio.eval.jsonl
    """
    if click.get_current_context().get_parameter_source("warmup_steps") is ParameterSource.DEFAULT:
        del settings["warmup_steps"]
    with opened() as registry:
        spec = training_request(
            registry,
            name=name,
            base=base,
            data=data,
            eval_data=eval_data,
            reading=reading,
            say=output.hint,
            further_data=dict(map(weighted_reference, further_data)),
            domains=domains,
            target_modules=split_list(target_modules, option="--target-modules"),
            **settings,
        )
        job = run_job(registry, spec, output=output, submission=submission)
        if job is not None:
            output.emit_made(job.outcome["adapter"], job.outcome)
            output.notes(job.outcome.get("warnings", ()))
