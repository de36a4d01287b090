"""`zoo train`: one adapter from one dataset, asked for by options, by a file or by both."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from registry.commands.managing import opened
from registry.commands.name_lists import split_list, weighted_reference
from registry.commands.output import Output, output_options
from registry.files.yaml_text import read_yaml_object, yaml_text
from registry.registration.datasets import Reading
from workers.commands.field_options import field_options
from workers.commands.reading_options import reading_options
from workers.commands.running import Submission, run_job, submission_options
from workers.errors import SpecFileInvalid
from workers.processes.heavy_imports import heavy_imports
from workers.requests.specs import TrainSpec
from workers.requests.training import PlannedTraining, overridden, planned_training

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
#: Parameter of the command -> field of the request, where they are called otherwise.
_FIELDS = {"data": "train_dataset", "eval_data": "eval_dataset"}


@click.command()
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="Name of the adapter; a taken name gets its next version.")
@click.option("--base", help="Base model: a name of `zoo bases ls`.")
@click.option("--data", help="Training data: a dataset's name, or a file to register.")
@click.option(
    "--from",
    "initial_adapter",
    metavar="ADAPTER",
    help="Adapter to continue from; its base model, rank, alpha and modules are taken over.",
)
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
@click.option("--epochs", type=float, help="Instead of --steps: how often each example is trained on.")
@field_options(TrainSpec, *TRAINING_OPTIONS)
@click.option("--print-spec", is_flag=True, help="Print the whole request, and train and register nothing.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the data and what fits together, estimate the memory, and train and register nothing.",
)
@reading_options
@submission_options
@output_options
def command(
    spec: Path | None,
    print_spec: bool,
    dry_run: bool,
    reading: Reading,
    submission: Submission,
    output: Output,
    **_: Any,
) -> None:
    """Train a LoRA adapter and register it.

    SPEC is a file with fields of the request, in YAML or JSON (`zoo schema train`); options go before it.

    Example: zoo train --name bio --base smollm2 --data bio.train.jsonl --eval-data bio.eval.jsonl
    """
    asked = overridden(read_yaml_object(spec, refusal=SpecFileInvalid) if spec else {}, _typed_fields())
    with opened() as registry:
        planned = planned_training(registry, asked, reading=reading, say=output.hint)
        if print_spec:
            _print(planned, output)
        elif dry_run:
            with heavy_imports():
                from workers.jobs.dry_run import forecast

            output.emit_record(asdict(forecast(registry, planned)))
        elif (
            job := run_job(registry, planned.register(registry), output=output, submission=submission)
        ) is not None:
            output.emit_made(job.outcome["adapter"], job.outcome)
            output.notes(job.outcome.get("warnings", ()))


def _typed_fields() -> dict[str, Any]:
    """The fields of the request that options give; those left out are the file's, or the defaults."""
    context = click.get_current_context()
    asked = {
        _FIELDS.get(name, name): value
        for name, value in context.params.items()
        if name in _ASKED and context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if "target_modules" in asked:
        asked["target_modules"] = split_list(asked["target_modules"], option="--target-modules")
    if "further_data" in asked:
        asked["further_data"] = dict(map(weighted_reference, asked["further_data"]))
    return asked


#: Parameters that say what is trained and how, and not what is to be done with the request.
_ASKED = frozenset(
    {
        *TRAINING_OPTIONS,
        *("name", "base", "data", "eval_data", "domains", "target_modules", "licence", "description"),
        *("initial_adapter", "further_data"),
        "epochs",
    }
)


def _print(planned: PlannedTraining, output: Output) -> None:
    fields = planned.spec.to_json()
    if output.is_json:
        output.emit_record(fields)
    else:
        click.echo(yaml_text(fields), nl=False)
