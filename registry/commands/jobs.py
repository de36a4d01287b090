"""`zoo jobs`: list and show jobs, print their logs, cancel, retry and wait for them."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from registry.commands.managing import opened, reading
from registry.commands.numbers import COUNT, Duration
from registry.commands.output import Output, output_options
from registry.jobs.logs import followed, json_line, log_of
from registry.jobs.progress import describe
from registry.jobs.states import KINDS, STATES, TERMINAL_STATES
from registry.jobs.waiting import wait_for
from registry.lists import queries

_COLUMNS = ("id", "kind", "name", "state", "progress", "attempt", "created_at", "message")
#: Exit codes of `wait`: the first of these states that a job is in decides, failures first.
_EXIT_CODES = {"failed": 7, "cancelled": 130, "running": 1, "queued": 1, "succeeded": 0}
#: A whole number in the range of the database's integers.
JOB_ID = COUNT

_DEFAULT_LIMIT = 20


@click.group(name="jobs")
def command() -> None:
    """Jobs: queued, running and ended."""


@command.command()
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--kind", type=click.Choice(KINDS), help="Only jobs of this kind.")
@click.option(
    "--limit",
    type=COUNT,
    default=_DEFAULT_LIMIT,
    show_default=True,
    help="At most this many, the newest.",
)
@click.option(
    "--before", type=JOB_ID, help="Only jobs older than this one; for the next page, the last id of this one."
)
@click.option("-a", "--all", "no_limit", is_flag=True, help="All of them.")
@output_options
def ls(
    states: tuple[str, ...],
    kind: str | None,
    limit: int,
    before: int | None,
    no_limit: bool,
    output: Output,
) -> None:
    """List jobs, the newest first.

    Example: zoo jobs ls --state running
    """
    with reading() as reader:
        rows = queries.jobs(
            reader, states=states, kind=kind, before=before, limit=None if no_limit else limit
        )
    if output.is_human:
        rows = [_summary(row) for row in rows]
    output.emit(rows, key="id", columns=_COLUMNS, empty="no jobs")


@command.command()
@click.argument("job_id", type=JOB_ID)
@output_options
def show(job_id: int, output: Output) -> None:
    """Show one job: its request, progress or result, and journal.

    Example: zoo jobs show 12
    """
    with opened() as registry:
        job = registry.jobs.get(job_id)
        events = registry.jobs.events(job_id)
    details = {**asdict(job), "events": [asdict(event) for event in events]}
    if not output.is_human:
        output.emit_record(details, key="id")
        return
    parts = ("spec", "events", "outcome", "progress")
    shown = {name: value for name, value in details.items() if name not in parts and value is not None}
    output.emit_record({**shown, "progress": describe(job.progress)})
    output.section("asked for", [{"field": name, "value": value} for name, value in job.spec.items()])
    output.section("outcome", [{"field": name, "value": value} for name, value in job.outcome.items()])
    output.section("journal", details["events"], columns=("sequence", "at", "fence", "kind", "payload"))


@command.command()
@click.argument("job_id", type=JOB_ID)
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the job ends.")
@click.option("--tail", type=COUNT, help="Only this many of the last lines.")
@output_options
def logs(job_id: int, follow: bool, tail: int | None, output: Output) -> None:
    """Print a job's log; with -f and --json, one line of JSON for each part.

    Example: zoo jobs logs 12 -f
    """
    with opened() as registry:
        if follow:
            for text in followed(registry.jobs, job_id, say=output.hint, tail=tail):
                click.echo(json_line(job_id, text) if output.is_json else text, nl=False)
            return
        log = log_of(registry.jobs, job_id, tail=tail)
    if output.is_json:
        output.emit_record({"job": job_id, "state": log.job.state, "host": log.host, "text": log.text})
    elif log.job.log_path is None:
        output.hint(f"job {job_id} is {log.job.state} and has not written anything yet")
    else:
        click.echo(log.text, nl=False)


@command.command()
@click.argument("job_ids", nargs=-1, required=True, type=JOB_ID)
@output_options
def cancel(job_ids: tuple[int, ...], output: Output) -> None:
    """Cancel jobs; what they have saved is kept.

    Example: zoo jobs cancel 12
    """
    with opened() as registry:
        jobs = [registry.jobs.request_cancel(job_id) for job_id in job_ids]
        made = [{"job": job.id, "state": job.state} for job in jobs]
        if len(jobs) == 1:
            output.emit_made(str(jobs[0].id), made[0])
        else:
            output.emit(made, key="job")
        for job in jobs:
            if job.state in TERMINAL_STATES and job.state != "cancelled":
                output.hint(f"job {job.id} has {job.state} already, so there is nothing to cancel")
            if job.state == "running":
                output.hint(
                    f"job {job.id} saves a checkpoint before it stops; wait with: zoo jobs wait {job.id}"
                )


@command.command()
@click.argument("job_ids", nargs=-1, required=True, type=JOB_ID)
@click.option("--timeout", "timeout_s", type=Duration(min=0), help="The most seconds to wait.")
@output_options
def wait(job_ids: tuple[int, ...], timeout_s: float | None, output: Output) -> None:
    """Wait until jobs have ended; exit code 0 if all have succeeded.

    Otherwise the first that applies: 7 if one failed, 130 if one was cancelled, 1 if time ran out.

    Example: zoo jobs wait 12 --timeout 3600
    """
    with opened() as registry:
        ended = wait_for(registry.jobs, job_ids, timeout_s=timeout_s)
    columns = ("id", "kind", "state", "reason", "message")
    rows = [{column: getattr(job, column) for column in columns} for job in ended]
    output.emit(rows, key="id")
    for job in ended:
        if job.state == "failed":
            output.hint(f"job {job.id} failed; see: zoo jobs logs {job.id}")
        elif job.state not in TERMINAL_STATES:
            output.hint(f"job {job.id} is still {job.state}; keep waiting with: zoo jobs wait {job.id}")
    click.get_current_context().exit(_exit_code([job.state for job in ended]))


@command.command()
@click.argument("job_id", type=JOB_ID)
@output_options
def retry(job_id: int, output: Output) -> None:
    """Queue a failed or cancelled job again; it resumes from its last checkpoint.

    Example: zoo jobs retry 12
    """
    with opened() as registry:
        job = registry.jobs.retry(job_id)
    output.emit_made(str(job.id), {"job": job.id, "state": job.state})
    output.hint("a worker runs it, or the command that submitted it, if you repeat that command")


def _exit_code(states: Sequence[str]) -> int:
    return next(code for state, code in _EXIT_CODES.items() if state in states)


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    spec = row["spec"]
    return {
        **row,
        "name": spec.get("name") or ", ".join(spec.get("subjects", ())),
        "state": "lost" if row["is_lost"] else row["state"],
        "progress": describe(row["progress"]) if row["state"] == "running" else "",
        "attempt": f"{row['attempt']} of {row['max_attempts']}",
    }
