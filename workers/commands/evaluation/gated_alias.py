"""`alias` with `--unless-worse-than`: a group of the registry's commands, with that one in its place."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from registry.commands.managing import opened
from registry.commands.numbers import COUNT
from registry.commands.option_names import naming_options
from registry.commands.output import Output

if TYPE_CHECKING:  # importing it takes longer than `ls` may take
    from registry.nouns.versioned import Versioned
    from registry.service import Registry

_OPTIONS = (
    click.Option(
        ["--unless-worse-than"],
        metavar="VERSION",
        help="Measure VERSION and this one, an alias or a number, on --data; move only if it is no worse.",
    ),
    click.Option(
        ["--data"], multiple=True, help="Dataset or file to compare on; task=DATASET names the task."
    ),
    click.Option(
        ["--margin"],
        type=click.FloatRange(0, 1),
        help="How much worse counts as no worse: a share of a loss, points of a share; 0.02 if left out.",
    ),
    click.Option(["--limit"], type=COUNT, help="Examples of each dataset to compare on; all if left out."),
)


def with_gate(group: click.Group, noun: "Callable[[Registry], Versioned[Any]]") -> click.Group:
    """A group of commands whose `alias` can be told to compare first."""
    plain = group.commands["alias"]

    def alias(
        *,
        unless_worse_than: str | None,
        data: tuple[str, ...],
        margin: float | None,
        limit: int | None,
        **given: Any,
    ) -> Any:
        if unless_worse_than is None:
            if data or margin is not None or limit is not None:
                raise click.UsageError("--data, --margin and --limit are for --unless-worse-than")
            return plain.callback(**given) if plain.callback else None
        if given.pop("remove") or given["version"] is None or not data:
            raise click.UsageError("--unless-worse-than needs VERSION and --data")
        given |= {"unless_worse_than": unless_worse_than, "data": data, "limit": limit}
        if margin is not None:
            given["margin"] = margin
        return _move(noun, **given)

    example = f"zoo {group.name} alias NAME champion 4 --unless-worse-than champion --data bio.eval"
    gated = click.Command(
        "alias",
        params=[*plain.params, *_OPTIONS],
        callback=naming_options(alias),
        help=f"{plain.help}\n\nExample: {example}",
    )
    return click.Group(group.name, help=group.help, commands={**group.commands, "alias": gated})


def _move(
    noun: "Callable[[Registry], Versioned[Any]]",
    *,
    output: Output,
    data: tuple[str, ...],
    expect: int | None,
    **asked: Any,
) -> None:
    # What a command needs at once must not wait for what only this option needs.
    from workers.commands.evaluation.eval import asked_task
    from workers.commands.running import HERE, run_job
    from workers.jobs.evaluation.gate import AskedMove, move_unless_worse

    with opened() as registry:
        moved = move_unless_worse(
            registry,
            noun(registry),
            AskedMove(tasks=[asked_task(given) for given in data], expected=expect, **asked),
            run=lambda spec: run_job(registry, spec, output=output, submission=HERE),
        )
    output.emit_made(
        f"{moved.name}@{moved.alias}",
        {
            "alias": f"{moved.name}@{moved.alias}",
            "version": moved.version,
            "previous": moved.previous,
            "reason": moved.reason,
        },
    )
