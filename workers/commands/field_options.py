"""Options of a command that are fields of its request: type, range, default and help are the field's own."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from formats.checked_fields import Checked, allowed_words

Command = TypeVar("Command", bound=Callable[..., Any])

_TYPES = {"integer": int, "number": float, "string": str}


def field_options(request: type[Checked], *names: str) -> Callable[[Command], Command]:
    """Give a command an option for each of these fields; `learning_rate` becomes `--learning-rate`."""
    schema = request.json_schema()["properties"]

    def decorate(command: Any) -> Any:
        for name in reversed(names):
            command = _option(name, schema[name])(command)
        return command

    return decorate


def _option(name: str, schema: dict[str, Any]) -> Callable[[Command], Command]:
    option, default = name.replace("_", "-"), schema.get("default")
    if schema.get("type") == "boolean":
        return click.option(
            f"--{option}/--no-{option}", default=default, show_default=True, help=schema["description"]
        )
    kind = next(choice["type"] for choice in schema.get("anyOf", [schema]) if choice["type"] != "null")
    return click.option(
        f"--{option}",
        type=_TYPES[kind],
        default=default,
        show_default=default is not None,
        help=f"{schema['description'].removesuffix('.')} ({allowed_words(schema)}).",
    )
