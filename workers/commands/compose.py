"""`zoo compose`: several adapters into one model, with a report of whether it was worth it."""

import json
from typing import Any

import click
from click.core import ParameterSource

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from registry.commands.report_table import score_rows, verdict_lines
from workers.commands.field_options import field_options
from workers.commands.lists import split_list
from workers.commands.running import Submission, run_job, submission_options
from workers.requests.composition_plan import Request, make_plan, require_compatible
from workers.requests.methods import DEFAULT_METHOD, METHODS, METHODS_HELP
from workers.requests.specs import ComposeSpec


@click.command()
@click.option(
    "--adapters", required=True, help="Adapters to compose, by commas, in the order of the experts."
)
@click.option("--name", required=True, help="Name of the composition; a taken name gets its next version.")
@click.option(
    "--method",
    type=click.Choice(tuple(METHODS)),
    default=DEFAULT_METHOD,
    show_default=True,
    help=METHODS_HELP,
)
@click.option("--data", multiple=True, help="domain=DATASET to train on; the adapters' own if left out.")
@click.option(
    "--eval-data", multiple=True, help="domain=DATASET to report on; the adapters' own if left out."
)
@click.option("--mixed", multiple=True, help="Held-out dataset whose questions join several domains.")
@click.option("--head", default="{}", help="Scaling head as JSON fields of XLoraConfig.")
@field_options(
    ComposeSpec,
    "warm_start_steps",
    "mixture_steps",
    "checkpoint_every_s",
    "samples_per_domain",
    "eval_examples",
    "seed",
)
@click.option("--dry-run", is_flag=True, help="Check and show the plan; train nothing.")
@submission_options
@output_options
def command(
    adapters: str,
    name: str,
    method: str,
    data: tuple[str, ...],
    eval_data: tuple[str, ...],
    mixed: tuple[str, ...],
    head: str,
    dry_run: bool,
    submission: Submission,
    output: Output,
    **budget: Any,
) -> None:
    """Mix ADAPTERS by a method, prove it is worth it, register the composition.

    Example: zoo compose --adapters bio,protein,materials --name science
    """
    with opened() as registry:
        request = Request(
            name=name,
            method=method,
            adapters=split_list(adapters, option="--adapters"),
            data=_pairs("--data", data),
            eval_data=_pairs("--eval-data", eval_data),
            mixed=mixed,
            head=_json_object(head),
            budget={field: value for field, value in budget.items() if _is_given(field)},
        )
        plan = make_plan(registry, request)
        if not plan.is_refused:
            plan.spec()  # what is out of range is refused before anything is shown
        if dry_run:
            output.emit(plan.verdict_rows(), key="expert")
        elif output.is_human:
            output.table(plan.verdict_rows(), to_stderr=True)
        require_compatible(plan)
        if dry_run:
            return
        job = run_job(registry, plan.spec(), output=output, submission=submission)
        if job is not None:
            _show(registry, job, output)


def _is_given(field: str) -> bool:
    """Whether it was, as an option: a method need not read what others have a default for."""
    return click.get_current_context().get_parameter_source(field) is not ParameterSource.DEFAULT


def _show(registry: Any, job: Any, output: Output) -> None:
    composition = registry.compositions.get(job.outcome["composition"])
    pictures = str(registry.settings.home / job.outcome["pictures"])
    if output.is_human:
        output.table(score_rows(composition.report))
        for line in verdict_lines(composition.report):
            click.echo(line)
        output.hint(f"pictures: {pictures}")
    else:
        made = {**job.outcome, "pictures": pictures, "report": composition.report}
        output.emit_made(composition.reference, made)


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for pair in given:
        domain, separator, reference = pair.partition("=")
        if not separator or not domain or not reference:
            raise click.BadParameter(f"expected domain=DATASET, got {pair!r}", param_hint=option)
        if domain in pairs:
            raise click.BadParameter(f"{domain} is given twice", param_hint=option)
        pairs[domain] = reference
    return pairs


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--head") from error
    if not isinstance(value, dict):
        raise click.BadParameter("expected a JSON object", param_hint="--head")
    return value
