"""`zoo jobs`: what ran, runs and waits; logs; asking a job to end; waiting for one."""

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry import listing
from registry.commands.managing import here, opened
from registry.job_states import STATES, TERMINAL_STATES
from registry.presentation import Output, output_options

if TYPE_CHECKING:
    from registry.entities import Job
    from registry.service import Registry

_COLUMNS = ("id", "kind", "name", "state", "progress", "attempt", "created_at", "message")
#: How `wait` ends: by the first of these states that a job is in, a failure before all else.
_EXIT_CODES = {"failed": 7, "cancelled": 130, "running": 1, "queued": 1, "succeeded": 0}
#: A whole number that the database can hold.
JOB_ID = click.IntRange(1, 2**31 - 1)

_POLL_EVERY_S = 0.5
_DEFAULT_LIMIT = 20


@click.group(name="jobs")
def command() -> None:
    """What ran, runs and waits."""


@command.command()
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--kind", help="Only jobs of this kind: train, eval, compose.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=_DEFAULT_LIMIT,
    show_default=True,
    help="The newest so many.",
)
@click.option("-a", "--all", "no_limit", is_flag=True, help="All of them.")
@output_options
def ls(states: tuple[str, ...], kind: str | None, limit: int, no_limit: bool, output: Output) -> None:
    """List jobs, the newest first.

    Example: zoo jobs ls --state running
    """
    rows = listing.jobs(here(), states=states, kind=kind, limit=None if no_limit else limit)
    if output.is_human:
        rows = [_summary(row) for row in rows]
    output.emit(rows, key="id", columns=_COLUMNS, empty="no jobs")


@command.command()
@click.argument("job_id", type=JOB_ID)
@output_options
def show(job_id: int, output: Output) -> None:
    """Show one job: what was asked, how it goes or ended, and its journal.

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
    output.emit_record({**shown, "progress": _progress(job.progress)})
    output.section("asked for", [{"field": name, "value": value} for name, value in job.spec.items()])
    output.section("outcome", [{"field": name, "value": value} for name, value in job.outcome.items()])
    output.section("journal", details["events"], columns=("sequence", "at", "fence", "kind", "payload"))


@command.command()
@click.argument("job_id", type=JOB_ID)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@click.option("--tail", type=click.IntRange(min=1), help="Only the last so many lines.")
def logs(job_id: int, follow: bool, tail: int | None) -> None:
    """Print what a job's process wrote.

    Example: zoo jobs logs 12 -f
    """
    with opened() as registry:
        job = registry.jobs.get(job_id)
        if job.log_path is None and not follow:
            click.echo(f"job {job_id} is {job.state} and has not written anything yet", err=True)
            return
        chunks = _followed(registry, job) if follow else iter([_content(job)])
        for number, chunk in enumerate(chunks):
            click.echo(_last_lines(chunk, tail) if number == 0 else chunk, nl=False)


@command.command()
@click.argument("job_ids", nargs=-1, required=True, type=JOB_ID)
@output_options
def cancel(job_ids: tuple[int, ...], output: Output) -> None:
    """Ask jobs to end; what they have saved is kept.

    Example: zoo jobs cancel 12
    """
    with opened() as registry:
        for job_id in job_ids:
            job = registry.jobs.request_cancel(job_id)
            output.emit_made(str(job.id), {"job": job.id, "state": job.state})
            if job.state in TERMINAL_STATES and job.state != "cancelled":
                output.hint(f"job {job.id} has {job.state} already, so there is nothing to cancel")
            if job.state == "running":
                output.hint(f"asked to end, it saves a checkpoint first; wait with: zoo jobs wait {job.id}")


@command.command()
@click.argument("job_ids", nargs=-1, required=True, type=JOB_ID)
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), help="Seconds to wait at most.")
@output_options
def wait(job_ids: tuple[int, ...], timeout_s: float | None, output: Output) -> None:
    """Wait until jobs have ended; exit code 0 if all have succeeded.

    Else the first that holds: 7 if one failed, 130 if one was cancelled, 1 if time ran out for one.

    Example: zoo jobs wait 12 --timeout 3600
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with opened() as registry:
        ended = [_wait_for(registry, job_id, deadline=deadline) for job_id in job_ids]
    columns = ("id", "kind", "state", "reason", "message")
    rows = [{column: getattr(job, column) for column in columns} for job in ended]
    output.emit(rows, key="id")
    click.get_current_context().exit(_exit_code([job.state for job in ended]))


@command.command()
@click.argument("job_id", type=JOB_ID)
@output_options
def retry(job_id: int, output: Output) -> None:
    """Queue a failed or cancelled job again; it goes on from its last checkpoint.

    Example: zoo jobs retry 12
    """
    with opened() as registry:
        job = registry.jobs.retry(job_id)
    output.emit_made(str(job.id), {"job": job.id, "state": job.state})
    output.hint("a worker takes it, or the command that asked for it, when it is given once more")


def _exit_code(states: Sequence[str]) -> int:
    return next(code for state, code in _EXIT_CODES.items() if state in states)


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    spec = row["spec"]
    return {
        **row,
        "name": spec.get("name") or ", ".join(spec.get("subjects", ())),
        "state": "lost" if _is_lapsed(row) else row["state"],
        "progress": _progress(row["progress"]) if row["state"] == "running" else "",
        "attempt": f"{row['attempt']} of {row['max_attempts']}",
    }


def _is_lapsed(row: dict[str, Any]) -> bool:
    """Nobody has renewed the lease in time; by this machine's clock, so good enough to look at only."""
    return row["state"] == "running" and bool(row["lease_until"] < datetime.now(UTC))


def _progress(progress: Any) -> str:
    if not progress:
        return ""
    return f"{progress.get('phase', '')} {progress.get('step', 0)}/{progress.get('total', '?')}".strip()


def _wait_for(registry: "Registry", job_id: int, *, deadline: float | None) -> "Job":
    """The job, ended or as it is when time runs out."""
    while True:
        job = registry.jobs.get(job_id)
        left_s = _POLL_EVERY_S if deadline is None else deadline - time.monotonic()
        if job.state in TERMINAL_STATES or left_s <= 0:
            return job
        time.sleep(min(_POLL_EVERY_S, left_s))


def _followed(registry: "Registry", job: "Job") -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offset = 0
    while True:
        # Asked before reading, so that what was written last before the end is read too.
        job = registry.jobs.get(job.id)
        written, offset = _read(job, offset=offset)
        if chunk := decoder.decode(written):
            yield chunk
        if job.state in TERMINAL_STATES:
            return
        time.sleep(_POLL_EVERY_S)


def _content(job: "Job") -> str:
    return _read(job, offset=0)[0].decode(errors="replace")


def _read(job: "Job", *, offset: int) -> tuple[bytes, int]:
    """What was written since `offset`, and the offset after it."""
    if job.log_path is None or not Path(job.log_path).exists():
        return b"", 0
    with Path(job.log_path).open("rb") as stream:
        # A log that was cut to size starts over.
        stream.seek(offset if offset <= _size_bytes(job.log_path) else 0)
        written = stream.read()
        return written, stream.tell()


def _size_bytes(path: str) -> int:
    return Path(path).stat().st_size if Path(path).exists() else 0


def _last_lines(text: str, count: int | None) -> str:
    return text if count is None else "".join(text.splitlines(keepends=True)[-count:])
