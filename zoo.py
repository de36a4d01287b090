"""The `zoo` command: a table of commands, each imported when it is used."""

import errno
import importlib
import os
import shlex
import sys
from typing import Any

import click

#: Section of the help -> command -> (where it is, what it does).
COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Make": {
        "register": ("workers.commands.register", "Register a base model, an adapter or a dataset."),
        "convert": (
            "workers.conversion.command",
            "Write an adapter of another program, or a pickle, as PEFT's.",
        ),
        "train": ("workers.commands.train", "Train a LoRA adapter."),
        "eval": ("workers.commands.evaluation.eval", "Score adapters, base models and compositions."),
        "lm-eval": (
            "workers.commands.evaluation.harness",
            "Run lm-evaluation-harness, which has `--model zoo` then.",
        ),
        "compose": ("workers.commands.compose", "Compose adapters into one X-LoRA model."),
    },
    "Use": {
        "generate": ("workers.commands.generate", "Ask a composition, an adapter or a base model."),
        "export": ("workers.commands.export", "Write a composition for other programs to load."),
    },
    "Serve": {
        "worker": ("workers.commands.worker", "Run queued jobs."),
        "relay": ("workers.commands.relay", "Wake workers up for queued jobs, in a process of its own."),
    },
    "Look and manage": {
        "adapters": ("workers.commands.evaluation.adapters", "LoRA adapters and their versions."),
        "bases": ("registry.commands.bases", "Base models."),
        "datasets": ("registry.commands.datasets", "Datasets."),
        "compositions": ("workers.rebuilding.compositions", "X-LoRA models and their reports."),
        "evals": ("registry.commands.evaluations", "Measured values, and the examples behind them."),
        "jobs": ("registry.commands.jobs", "Jobs: queued, running and ended."),
        "workers": ("registry.commands.workers", "Workers that run queued jobs."),
        "runs": ("workers.commands.runs", "What jobs measured, and whether MLflow has received it."),
        "schema": ("workers.commands.schema", "The JSON Schema of a request."),
        "ui": ("workers.commands.ui", "Browse every run in MLflow."),
        "doctor": (
            "workers.commands.doctor",
            "Find faults of database, broker, disk or GPU, and how to fix them.",
        ),
        "migrate": ("workers.commands.migrate", "Upgrade the database to this release's schema."),
    },
}

TABLE = {name: row for section in COMMANDS.values() for name, row in section.items()}

#: Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130
FAILED = 1


class Zoo(click.Group):
    """A group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names, in the order of the table."""
        return list(TABLE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one command."""
        if cmd_name not in TABLE:
            return None
        found: click.Command = importlib.import_module(TABLE[cmd_name][0]).command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table by its sections, from its own texts, so that help imports no command."""
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"zoo {version('adapter-zoo')}")
    except PackageNotFoundError:
        click.echo("zoo, run from its source tree without being installed")
    context.exit()


@click.command(cls=Zoo, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """A registry of LoRA adapters that trains them and composes chosen ones into X-LoRA models."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; errors become one line and an exit code."""
    _open_closed_streams()
    try:
        typed = shlex.join(["zoo", *(sys.argv[1:] if arguments is None else arguments)])
        status: Any = cli.main(args=arguments, prog_name="zoo", standalone_mode=False, obj=typed)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _forget_unwritten_output()  # the reader is gone (`| head`)
        sys.exit(FAILED)
    except Exception as error:
        sys.exit(_say(error))
    sys.exit(status if isinstance(status, int) else 0)


def _open_closed_streams() -> None:
    """Open standard streams that the caller closed: files opened later would take their numbers."""
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8"))


def _say(error: Exception) -> int:
    """Print an error for a person; its exit code."""
    if os.environ.get("ZOO_DEBUG"):
        import traceback

        traceback.print_exception(error)
    code = getattr(error, "code", None)
    if isinstance(code, str) and code.startswith("ZOO-"):
        click.echo(f"error {code}: {error}", err=True)
        return int(getattr(error, "exit_code", FAILED))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _forget_unwritten_output()
        where = f" for {error.filename}" if error.filename else ""
        click.echo(f"error ZOO-E283: no room left{where}; make room, then repeat the command", err=True)
        return FAILED
    click.echo(
        f"error: {type(error).__name__}: {error}\nThis is a bug in zoo; ZOO_DEBUG=1 shows where", err=True
    )
    return FAILED


def _forget_unwritten_output() -> None:
    """What standard output could not take must not raise again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
