"""The words a user typed instead of those of the code: `--learning-rate` for `learning_rate`."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, TypeVar, cast, runtime_checkable

import click

#: Fields of a request that come from an option of another name: field -> parameter.
_PARAMETERS: Mapping[str, str] = {
    "train_dataset": "data",
    "eval_dataset": "eval_data",
    "datasets": "data",
    "mixed_datasets": "mixed",
    "corpora": "data",
    "budget_s": "budget",
}

Command = TypeVar("Command", bound=Callable[..., Any])


@runtime_checkable
class FieldRefused(Protocol):
    """An error about the value of one field."""

    field: str

    def renamed(self, field: str) -> Self:
        """The same error with another name for the field."""


def naming_options(command: Command) -> Command:
    """Make a command's errors about a field name its option."""

    @functools.wraps(command)
    def with_names(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except Exception as error:
            typed = option_of(error.field) if isinstance(error, FieldRefused) else None
            if typed is None:
                raise
            raise cast("Any", error).renamed(typed) from error

    return cast("Command", with_names)


def option_of(field: str) -> str | None:
    """As the running command's user types the field; None if it has no option for it.

    An entry of a field, `head.xlora_depth`, is named after the option: `--head xlora_depth`.
    """
    field, _, entry = field.partition(".")
    wanted = _PARAMETERS.get(field, field)
    for parameter in click.get_current_context().command.params:
        if parameter.name == wanted:
            is_option = isinstance(parameter, click.Option)
            typed = max(parameter.opts, key=len) if is_option else parameter.human_readable_name
            return f"{typed} {entry}".rstrip()
    return None
