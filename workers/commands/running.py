"""Submitting a job and, unless it is left to a worker, running it here with a progress bar."""

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import click

from registry.commands.option_names import naming_options, option_of
from registry.commands.output import Output
from registry.entities import Job
from registry.service import Registry
from workers.attempts.runner import run_here
from workers.processes.gpus import gpus_for, visible_gpus
from workers.requests.placement import QUEUES, Placement, seconds
from workers.requests.specs import Spec, processes_of
from workers.requests.submission import require_success, submit, waits_for_a_worker
from workers.tracking.sources import Source

Progress = Callable[[Mapping[str, Any]], None]
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Submission:
    """How a job of any kind is to be run."""

    detach: bool
    force: bool
    placement: Placement


#: A job that is a step of a command: here and now, unless an equal one has succeeded.
HERE = Submission(detach=False, force=False, placement=Placement())

_SUBMISSION_OPTIONS = (
    click.option(
        "--detach", is_flag=True, help="Leave the job queued for a worker instead of running it here."
    ),
    click.option("--force", is_flag=True, help="Run it again, even if an equal job has succeeded."),
    click.option(
        "--queue",
        type=click.Choice(QUEUES),
        help="The queue of the workers that may run it; gpu if a GPU is available.",
    ),
    click.option(
        "--priority",
        type=click.IntRange(-1000, 1000),
        help="Jobs of higher priority run first; 0 if left out.",
    ),
    click.option("--deadline", help="End it this long from now at the latest: 90s, 30m, 2h, 1d."),
)


def submission_options(command: Command) -> Command:
    """Add the options of a submission to a command, which receives them as `submission`."""

    @functools.wraps(command)
    def with_submission(
        *args: Any,
        detach: bool,
        force: bool,
        queue: str | None,
        priority: int | None,
        deadline: str | None,
        **rest: Any,
    ) -> Any:
        submission = Submission(
            detach=detach,
            force=force,
            placement=Placement(
                queue=queue,
                priority=priority,
                deadline_s=None if deadline is None else seconds(deadline),
            ),
        )
        return command(*args, submission=submission, **rest)

    decorated: Any = naming_options(with_submission)
    for option in reversed(_SUBMISSION_OPTIONS):
        decorated = option(decorated)
    return cast("Command", decorated)


def run_job(registry: Registry, spec: Spec, *, output: Output, submission: Submission) -> Job | None:
    """A job that has succeeded for this request, an earlier or a new one; None if it is left to a worker.

    Raises:
        SpecInvalid: it is to run here, and wants more processes than there are GPUs here.
        JobFailed: it ended without a result.
        JobCancelled: a user asked it to end, by Ctrl-C perhaps.
    """
    processes = processes_of(spec.to_json())
    if not submission.detach:
        gpus_for(processes, visible_gpus(os.environ))
    submitted = submit(
        registry,
        spec,
        force=submission.force,
        placement=submission.placement,
        source=Source.here(typed_command()),
    )
    job = submitted.job
    if job.state == "succeeded":
        output.hint(f"job {job.id} did just this before; --force runs it again")
        return job
    if submitted.ignored:
        output.hint(
            f"job {job.id} was asked for before, so these do not hold: {_instead(submitted.ignored)};"
            f" for another, zoo jobs cancel {job.id}, then this command with --force"
        )
    if submission.detach:
        output.emit_id(job.id, human=_queued(job))
        if waits_for_a_worker(registry, job):
            output.hint(_unserved(job.queue, processes))
        return None

    def on_event(kind: str, known: Mapping[str, Any]) -> None:
        output.hint(f"note: {kind.replace('_', ' ')}: {known.get('reason', '')}")

    with progress_shown(output) as on_progress:
        ended = run_here(registry, job.id, on_progress=on_progress, on_event=on_event)
    return require_success(ended)


def typed_command() -> str | None:
    """The command as it was typed; None where something else than a shell called it."""
    context = click.get_current_context(silent=True)
    typed = None if context is None else context.find_root().obj
    return typed if isinstance(typed, str) else None


def _instead(ignored: Mapping[str, str]) -> str:
    """Options that have no effect, and what holds: `--queue (it is on cpu)`."""
    return ", ".join(f"{option_of(field)} (it {holds})" for field, holds in ignored.items())


def _unserved(queue: str, processes: int) -> str:
    gpus = ",".join(map(str, range(processes)))
    several = f" of {processes} processes" if processes > 1 else ""
    offer = f" --gpu {gpus}" if processes > 1 and queue == "gpu" else ""
    return (
        f"no worker takes jobs{several} from {queue} yet; start one with: zoo worker --queue {queue}{offer}"
    )


def _queued(job: Job) -> str:
    return (
        f"{job.state} as #{job.id} on {job.queue}\n"
        f"  wait    zoo jobs wait {job.id}\n"
        f"  show    zoo jobs show {job.id}\n"
        f"  logs    zoo jobs logs {job.id} -f\n"
        f"  cancel  zoo jobs cancel {job.id}"
    )


def progress_shown(output: Output) -> AbstractContextManager[Progress]:
    """Progress on stderr: a bar on a terminal, a line for each phase elsewhere, nothing with -q."""
    if output.is_quiet:
        return nullcontext(lambda _: None)
    return _bars() if sys.stderr.isatty() else nullcontext(_phase_lines())


def _phase_lines() -> Callable[[Mapping[str, Any]], None]:
    seen: set[str] = set()

    def show(progress: Mapping[str, Any]) -> None:
        phase = str(progress.get("phase", ""))
        if phase and phase not in seen:
            seen.add(phase)
            click.echo(f"  {phase}", err=True)

    return show


@contextmanager
def _bars() -> Iterator[Progress]:
    """One bar for each phase; the cursor is restored however the job ends."""
    from rich import progress as bars
    from rich.console import Console

    tasks: dict[str, bars.TaskID] = {}
    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[loss]}"),
        bars.TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as drawn:

        def show(progress: Mapping[str, Any]) -> None:
            phase = str(progress.get("phase", ""))
            if phase not in tasks:
                tasks[phase] = drawn.add_task(phase, total=progress.get("total"), loss="")
            loss = progress.get("loss")
            shown = "" if loss is None else f"loss {loss:.3f}"
            drawn.update(tasks[phase], completed=progress.get("step", 0), loss=shown)

        yield show
