"""`zoo train`: one adapter from one dataset."""

from dataclasses import fields, replace
from typing import Any

import click
from click.core import ParameterSource

from registry.commands.output import Output, output_options
from workers.commands.lists import split_list
from workers.commands.running import Submission, run_job, submission_options

#: Options of `zoo train` that are fields of its spec: option -> (type, help).
TRAINING_OPTIONS: dict[str, tuple[Any, str]] = {
    "rank": (int, "Rank of the updates."),
    "alpha": (float, "Updates are scaled by alpha / rank."),
    "dropout": (float, "Dropout before the updates, while training."),
    "learning-rate": (float, "Peak learning rate, after the warm-up."),
    "steps": (int, "Optimiser steps."),
    "batch-rows": (int, "Rows in each step."),
    "processes": (int, "Share each step's rows: one GPU each where there are any."),
    "warmup-steps": (int, "Steps over which the learning rate rises."),
    "weight-decay": (float, "AdamW's weight decay."),
    "seed": (int, "Decides initial values and data order."),
    "max-tokens": (int, "Rows longer than this are refused."),
    "checkpoint-every-s": (float, "Seconds between checkpoints."),
}


def _training_options(command: Any) -> Any:
    from workers.requests.specs import TrainSpec

    defaults = {field.name: field.default for field in fields(TrainSpec)}
    for name, (kind, text) in reversed(TRAINING_OPTIONS.items()):
        default = defaults[name.replace("-", "_")]
        command = click.option(f"--{name}", type=kind, default=default, show_default=True, help=text)(command)
    return click.option(
        "--silent-prefix/--no-silent-prefix",
        default=defaults["silent_prefix"],
        show_default=True,
        help="Add nothing on the tokens all rows begin with, as a mixture needs it.",
    )(command)


@click.command()
@click.option("--name", required=True, help="Name of the adapter; a taken name gets its next version.")
@click.option("--base", required=True, help="Base model: a name of `zoo bases ls`.")
@click.option("--data", required=True, help="Training data: a dataset's name, or a JSONL file to register.")
@click.option("--eval-data", help="Held-out data to score the adapter on when it is trained.")
@click.option(
    "--domain", "domains", multiple=True, help="What the adapter is for; the data's domain if left out."
)
@click.option("--target-modules", default="all-linear", show_default=True, help="Layers to adapt, by commas.")
@click.option("--licence", help="Licence of the adapter.")
@click.option("--description", default="", help="What others should know.")
@_training_options
@submission_options
@output_options
def command(
    name: str,
    base: str,
    data: str,
    eval_data: str | None,
    domains: tuple[str, ...],
    target_modules: str,
    submission: Submission,
    output: Output,
    **settings: Any,
) -> None:
    """Train a LoRA adapter and register it.

    Example: zoo train --name bio --base smollm2 --data bio.train.jsonl --eval-data bio.eval.jsonl
    """
    from registry.commands.managing import opened
    from workers.requests.datasets import given_dataset
    from workers.requests.specs import TrainSpec

    with opened() as registry:
        given = given_dataset(registry, data)
        held_out = given_dataset(registry, eval_data) if eval_data else None
        if click.get_current_context().get_parameter_source("warmup_steps") is ParameterSource.DEFAULT:
            settings["warmup_steps"] = min(settings["warmup_steps"], max(0, settings["steps"]))
        asked = TrainSpec(
            name=name,
            base=registry.bases.get(base).name,
            train_dataset=given.name,
            eval_dataset=held_out.name if held_out else None,
            domains=domains,
            target_modules=split_list(target_modules, option="--target-modules"),
            **settings,
        )
        # Only a request that holds puts files on record.
        dataset = given.register(registry)
        spec = replace(
            asked,
            train_dataset=dataset.reference,
            eval_dataset=held_out.register(registry).reference if held_out else None,
            domains=domains or ((dataset.domain,) if dataset.domain else ()),
        )
        job = run_job(registry, spec, output=output, submission=submission)
        if job is not None:
            output.emit_made(job.outcome["adapter"], job.outcome)
