"""`zoo compositions rebuild`: the next version of a composition, by the same request, of other experts."""

import click

from registry.commands.managing import opened
from registry.commands.output import Output, output_options
from workers.commands.compose import show_composition
from workers.commands.running import Submission, run_job, submission_options
from workers.rebuilding.rebuilt_request import rebuilt_plan
from workers.requests.composition import composition_request
from workers.requests.composition_plan import require_compatible


@click.command(name="rebuild")
@click.argument("reference")
@click.option(
    "--expert",
    "experts",
    multiple=True,
    required=True,
    help="Adapter to take instead of the expert of its name; EXPERT=ADAPTER puts it in the place of another.",
)
@click.option("--dry-run", is_flag=True, help="Check and show the plan; train nothing.")
@submission_options
@output_options
def command(
    reference: str, experts: tuple[str, ...], dry_run: bool, submission: Submission, output: Output
) -> None:
    """Compose REFERENCE again with other experts: the same data, method and settings, its next version.

    Example: zoo compositions rebuild science --expert bio@4
    """
    with opened() as registry:
        plan = rebuilt_plan(registry, reference, experts)
        if dry_run:
            output.emit(plan.verdict_rows(), key="expert")
            require_compatible(plan)
            return
        if output.is_human:
            output.table(plan.verdict_rows(), to_stderr=True)
        job = run_job(registry, composition_request(registry, plan), output=output, submission=submission)
        if job is not None:
            show_composition(registry, job, output)
