"""`zoo runs`: what jobs measured, and whether MLflow has received it."""

import contextlib
import os

import click

from registry.commands.managing import opened
from registry.commands.numbers import Duration
from registry.commands.output import Output, output_options
from registry.errors import ServiceUnreachable
from registry.settings import Settings
from workers.errors import TrackingUnavailable
from workers.tracking.ended_runs import close_ended_runs
from workers.tracking.shipping import discard, pending_folders, ship_pending, spooled_runs

_COLUMNS = ("job", "run_id", "pending_bytes", "reason")


@click.group(name="runs")
def command() -> None:
    """What jobs of this machine measured, and whether MLflow has received it."""


@command.command()
@click.option(
    "--pending", "only_pending", is_flag=True, help="Only runs that MLflow has not received completely."
)
@output_options
def ls(only_pending: bool, output: Output) -> None:
    """List runs by job, with how much of each MLflow has not received.

    Example: zoo runs ls --pending
    """
    runs = spooled_runs(Settings.from_env(os.environ))
    rows = [vars(run) for run in runs if run.pending_bytes or not only_pending]
    output.emit(rows, key="job", columns=_COLUMNS, empty="no runs wait" if only_pending else "no runs")


@command.command()
@click.option("--timeout", "timeout_s", type=Duration(min=1), default=600.0, show_default=True)
@click.option("--restore", is_flag=True, help="Bring back experiments and runs deleted in MLflow first.")
@output_options
def ship(timeout_s: float, restore: bool, output: Output) -> None:
    """Ship the runs that MLflow has not received; shipping twice changes nothing.

    Example: zoo runs ship --timeout 60
    """
    settings = Settings.from_env(os.environ)
    with contextlib.suppress(ServiceUnreachable), opened() as registry:
        close_ended_runs(registry)
    waited = {folder.name for folder in pending_folders(settings)}
    complaint = ship_pending(settings, timeout_s=timeout_s, restore=restore)
    rows = [vars(run) for run in spooled_runs(settings) if run.job in waited]
    output.emit(rows, key="job", columns=_COLUMNS, empty="no runs wait")
    if complaint is not None:
        raise TrackingUnavailable(
            f"{complaint}; what it did not take is kept. See why: zoo runs ls --pending; bring back what was"
            " deleted: zoo runs ship --restore; give a run up: zoo runs discard JOB"
        )


@command.command(name="discard")
@click.argument("jobs", nargs=-1, required=True)
@output_options
def discard_runs(jobs: tuple[str, ...], output: Output) -> None:
    """Give up what MLflow has not received of the runs of JOBS; the jobs and their results stay.

    Example: zoo runs discard 12
    """

    settings = Settings.from_env(os.environ)
    for job in jobs:
        output.emit_made(job, {"job": job, "discarded_bytes": discard(settings, job)})
