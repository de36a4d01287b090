"""`zoo runs`: what jobs measured, and whether MLflow has it yet."""

import os

import click

from registry.commands.output import Output, output_options
from registry.settings import Settings
from workers.errors import TrackingUnavailable

_COLUMNS = ("job", "run_id", "pending_bytes")


@click.group(name="runs")
def command() -> None:
    """What jobs of this machine measured, and whether MLflow has it."""


@command.command()
@click.option("--pending", "only_pending", is_flag=True, help="Only those MLflow does not have all of.")
@output_options
def ls(only_pending: bool, output: Output) -> None:
    """List runs by job, with how much of each MLflow does not have yet.

    Example: zoo runs ls --pending
    """
    from workers.tracking.shipping import spooled_runs

    runs = spooled_runs(Settings.from_env(os.environ))
    rows = [vars(run) for run in runs if run.pending_bytes or not only_pending]
    output.emit(rows, key="job", columns=_COLUMNS, empty="no runs wait" if only_pending else "no runs")


@command.command()
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=1), default=600.0, show_default=True)
@output_options
def ship(timeout_s: float, output: Output) -> None:
    """Give MLflow what it missed while it was away; shipping twice changes nothing.

    Example: zoo runs ship --timeout 60
    """
    from workers.tracking.shipping import pending_folders, ship_pending, spooled_runs

    settings = Settings.from_env(os.environ)
    waited = {folder.name for folder in pending_folders(settings)}
    complaint = ship_pending(settings, timeout_s=timeout_s)
    rows = [vars(run) for run in spooled_runs(settings) if run.job in waited]
    output.emit(rows, key="job", columns=_COLUMNS, empty="no runs wait")
    if complaint is not None:
        raise TrackingUnavailable(f"{complaint}; what it did not take is kept: zoo doctor says more")
