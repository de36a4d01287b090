"""`zoo compose`: several adapters into one model, with a report of whether it was worth it."""

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from registry.commands.managing import opened
from registry.commands.name_lists import split_list
from registry.commands.output import Output, output_options
from registry.commands.report_table import score_rows, verdict_lines
from workers.commands.field_options import field_options
from workers.commands.running import Submission, run_job, submission_options
from workers.requests.composition import (
    AUTO,
    DEFAULT_CHOICE,
    candidates,
    composition_request,
    planned_composition,
)
from workers.requests.composition_data import AskedData
from workers.requests.composition_plan import Request, require_compatible
from workers.requests.methods import ASKED_METHODS, DEFAULT_METHOD, METHODS_HELP
from workers.requests.placement import seconds
from workers.requests.specs import ComposeSpec


@click.command()
@click.option(
    "--adapters",
    required=True,
    help="Adapters to compose, by commas, in the order of the experts; auto: those of --base that add most.",
)
@click.option("--base", help="With --adapters auto: the base model whose adapters are candidates.")
@click.option("--name", required=True, help="Name of the composition; a taken name gets its next version.")
@click.option(
    "--method",
    type=click.Choice(ASKED_METHODS),
    default=DEFAULT_METHOD,
    show_default=True,
    help=METHODS_HELP,
)
@click.option(
    "--data",
    multiple=True,
    help="Dataset or file to train on, of any domains; domain=DATASET for one domain. The adapters' own if"
    " left out.",
)
@click.option(
    "--eval-data",
    multiple=True,
    help="domain=DATASET or file to report on; if left out, the adapters' own or part of the training data.",
)
@click.option("--mixed", multiple=True, help="Held-out dataset or file whose questions join several domains.")
@click.option("--budget", help="Time for mixture training instead of a number of steps: 90s, 2m, 1h.")
@click.option("--head", default="{}", help="Scaling head as JSON fields of XLoraConfig.")
@field_options(
    ComposeSpec,
    "warm_start_steps",
    "mixture_steps",
    "choose",
    "without_help",
    "load_penalty",
    "checkpoint_every_s",
    "samples_per_domain",
    "eval_examples",
    "merged_rank",
    "density",
    "merge_scale",
    "cat_learning_rate",
    "gate_steps",
    "router_top_k",
    "router_temperature",
    "seed",
)
@click.option("--dry-run", is_flag=True, help="Check and show the plan; train nothing.")
@submission_options
@output_options
def command(
    adapters: str,
    base: str | None,
    name: str,
    method: str,
    data: tuple[str, ...],
    eval_data: tuple[str, ...],
    mixed: tuple[str, ...],
    budget: str | None,
    head: str,
    dry_run: bool,
    submission: Submission,
    output: Output,
    **fields: Any,
) -> None:
    """Mix ADAPTERS by a method, prove it is worth it, register the composition.

    Example: zoo compose --adapters bio,protein,materials --name science
    """
    given = {field: value for field, value in fields.items() if _is_given(field)}
    if budget is not None:
        given["budget_s"] = seconds(budget, field="budget_s")
    with opened() as registry:
        named = split_list(adapters, option="--adapters")
        if named == (AUTO,) or base is not None:
            named = candidates(registry, named, base=base)
            given.setdefault("choose", min(DEFAULT_CHOICE, len(named)))
        request = Request(
            name=name,
            method=method,
            adapters=named,
            data=_asked_data(data, eval_data, mixed),
            head=_json_object(head),
            budget=given,
        )
        plan = planned_composition(registry, request)
        if dry_run:
            output.emit(plan.verdict_rows(), key="expert")
            require_compatible(plan)
            return
        if output.is_human:
            output.table(plan.verdict_rows(), to_stderr=True)
        spec = composition_request(registry, plan)
        job = run_job(registry, spec, output=output, submission=submission)
        if job is not None:
            show_composition(registry, job, output)


def _is_given(field: str) -> bool:
    """Whether it was, as an option: a method need not read what others have a default for."""
    return click.get_current_context().get_parameter_source(field) is not ParameterSource.DEFAULT


def show_composition(registry: Any, job: Any, output: Output) -> None:
    """What a job composed: its scores and verdicts, and where its pictures are."""
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


def _asked_data(data: tuple[str, ...], evaluated: tuple[str, ...], mixed: tuple[str, ...]) -> AskedData:
    # A path may hold the sign itself.
    corpora = tuple(given for given in data if "=" not in given or Path(given).is_file())
    labelled = tuple(given for given in data if given not in corpora)
    return AskedData(
        labelled=_pairs("--data", labelled),
        corpora=corpora,
        evaluated=_pairs("--eval-data", evaluated),
        mixed=mixed,
    )


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
