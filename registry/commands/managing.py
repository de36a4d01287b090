"""The commands that every kind of record has: rm, restore, alias and aliases."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from registry.commands.numbers import COUNT, LARGEST_INTEGER
from registry.commands.output import Output, output_options
from registry.database.reader import Reader, open_reader
from registry.settings import Settings

if TYPE_CHECKING:  # importing it takes longer than `ls` may take
    from registry.nouns.bases import Bases
    from registry.nouns.versioned import Versioned
    from registry.service import Registry

include_removed_option = click.option("--all", "include_removed", is_flag=True, help="Include removed ones.")
limit_option = click.option("--limit", type=COUNT, help="Show at most this many.")


def here() -> Settings:
    """The settings of this process's environment."""
    return Settings.from_env(os.environ)


@contextmanager
def reading() -> Iterator[Reader]:
    """A reader of the database here, for commands that must answer at once."""
    with open_reader(here()) as reader:
        yield reader


@contextmanager
def opened() -> "Iterator[Registry]":
    """The registry, open during the block."""
    from registry.service import Registry

    with Registry.open(here()) as registry:
        yield registry


def add_removal(group: click.Group, noun: "Callable[[Registry], Bases | Versioned[Any]]") -> None:
    """Add `rm` and `restore` to the group of a kind of record."""

    @group.command()
    @click.argument("references", nargs=-1, required=True)
    @output_options
    def rm(references: tuple[str, ...], output: Output) -> None:
        """Remove REFERENCES, unless other records need them; `restore` undoes it."""
        with opened() as registry:
            for reference in references:
                removed = noun(registry).remove(reference).reference
                output.emit_made(removed, {"removed": removed})
                output.hint(f"undo it with: zoo {group.name} restore {removed}")

    @group.command()
    @click.argument("references", nargs=-1, required=True)
    @output_options
    def restore(references: tuple[str, ...], output: Output) -> None:
        """Restore REFERENCES that `rm` removed."""
        with opened() as registry:
            for reference in references:
                restored = noun(registry).restore(reference).reference
                output.emit_made(restored, {"restored": restored})


def add_aliases(group: click.Group, noun: "Callable[[Registry], Versioned[Any]]") -> None:
    """Add `alias` and `aliases` to the group of a kind of record."""

    @group.command()
    @click.argument("name")
    @click.argument("alias")
    @click.argument("version", type=COUNT, required=False)
    @click.option("--remove", is_flag=True, help="Remove the alias instead of pointing it to VERSION.")
    @click.option(
        "--expect",
        type=click.IntRange(0, LARGEST_INTEGER),
        help="Refuse unless it points to this version now; 0: to none.",
    )
    @click.option("--reason", help="Reason, kept in the alias's history.")
    @output_options
    def alias(
        name: str,
        alias: str,
        version: int | None,
        remove: bool,
        expect: int | None,
        reason: str | None,
        output: Output,
    ) -> None:
        """Point ALIAS of NAME to VERSION, so that NAME@ALIAS means it."""
        if remove == (version is not None):
            raise click.UsageError("give VERSION to point the alias there, or --remove to take it away")
        with opened() as registry:
            moved = noun(registry).set_alias(name, alias, version, expected=expect, reason=reason)
        output.emit_made(
            f"{moved.name}@{moved.alias}",
            {"alias": f"{moved.name}@{moved.alias}", "version": moved.version, "previous": moved.previous},
        )

    @group.command()
    @click.argument("name")
    @output_options
    def aliases(name: str, output: Output) -> None:
        """List every move of NAME's aliases, the oldest first."""
        with opened() as registry:
            moves = noun(registry).alias_history(name)
        output.emit([vars(move) for move in moves], key="alias", empty=f"{name} has no aliases")
