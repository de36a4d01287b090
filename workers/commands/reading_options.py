"""Options of commands that read files of examples."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from registry.example_shapes.column_mapping import parsed_mapping
from registry.registration.datasets import Reading

Command = TypeVar("Command", bound=Callable[..., Any])


def reading_options(command: Command) -> Command:
    """Add the options that say how files are read; the command receives them as `reading`."""

    @wraps(command)
    def reading(
        *args: Any, map: str | None, skip_bad_examples: bool, files: str | None, **settings: Any
    ) -> Any:
        mapping = None if map is None else parsed_mapping(map)
        found = Reading(mapping=mapping, skip_bad_examples=skip_bad_examples, files=files)
        return command(*args, reading=found, **settings)

    options = (
        click.option(
            "--map",
            help="Which column is what, where names do not tell: prompt=question,completion=answer; also"
            " system, messages, tools, text, domain. Other columns are not read.",
        ),
        click.option(
            "--skip-bad-examples",
            is_flag=True,
            help="Leave out examples that cannot be taken, and record how many.",
        ),
        click.option("--files", help="Of a folder: only files that match this pattern, such as '*train*'."),
    )
    for option in reversed(options):
        reading = option(reading)
    return reading  # type: ignore[return-value]
