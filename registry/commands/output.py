"""How commands print: tables for people, `--json` and `-q` for scripts. Data on stdout, hints on stderr."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import click

from registry.commands.option_names import naming_options

HUMAN, JSON, QUIET = "human", "json", "quiet"

_KILO = 1000

Row = Mapping[str, Any]
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Output:
    """The output of a command, in the format that the user chose."""

    mode: str = HUMAN

    @property
    def is_human(self) -> bool:
        """Whether a person reads it."""
        return self.mode == HUMAN

    @property
    def is_json(self) -> bool:
        """Whether a script wants whole values."""
        return self.mode == JSON

    @property
    def is_quiet(self) -> bool:
        """Whether ids alone are wanted."""
        return self.mode == QUIET

    def emit(
        self, rows: Sequence[Row], *, key: str, columns: Sequence[str] = (), empty: str = "none"
    ) -> None:
        """Print many records; `key` is the column that identifies one, `columns` are those for people."""
        if self.mode == JSON:
            click.echo(_json(list(rows)))
        elif self.mode == QUIET:
            for row in rows:
                click.echo(row[key])
        elif rows:
            self.table(_narrowed(rows, columns))
        else:
            self.hint(empty)

    def section(self, title: str, rows: Sequence[Row], *, columns: Sequence[str] = ()) -> None:
        """Print a titled table for people as a part of a record; nothing for an empty one."""
        if self.is_human and rows:
            click.echo(f"\n{title}")
            self.table(_narrowed(rows, columns))

    def emit_record(self, record: Row, *, key: str | None = None) -> None:
        """Print one record, one field for each line."""
        if self.mode == JSON:
            click.echo(_json(record))
        elif self.mode == QUIET and key is not None:
            click.echo(record[key])
        else:
            width = max(map(len, record))
            for name, value in record.items():
                click.echo(f"{name:<{width}}  {_shown(_sized(name, value))}".rstrip())

    def emit_made(self, reference: str, record: Row) -> None:
        """Print the record that a command made; with -q, its reference alone."""
        if self.mode == JSON:
            click.echo(_json(record))
        elif self.mode == QUIET:
            click.echo(reference)
        else:
            self.emit_record(record)

    def emit_id(self, number: int, *, human: str) -> None:
        """Print the id of a queued job."""
        click.echo({JSON: _json({"job": number}), QUIET: str(number)}.get(self.mode, human))

    def table(self, rows: Sequence[Row], *, to_stderr: bool = False) -> None:
        """A table: with lines on a terminal, aligned columns in a pipe."""
        stream = sys.stderr if to_stderr else sys.stdout
        columns = list(rows[0])
        cells = [[_shown(_sized(column, row.get(column))) for column in columns] for row in rows]
        if stream.isatty():
            _draw(columns, cells, to_stderr=to_stderr)
        else:
            _align(columns, cells, to_stderr=to_stderr)

    def notes(self, warnings: Sequence[str]) -> None:
        """Say what a record warns of, in every format: it is on stderr, where no script reads data."""
        for warning in warnings:
            click.echo(f"note: {warning}", err=True)

    def hint(self, text: str) -> None:
        """Print a hint beside the data, for people only."""
        if self.is_human:
            click.echo(text, err=True)


def output_options(command: Command) -> Command:
    """Add `--json` and `-q` to a command, which receives them as `output`; its errors name its options."""

    def choose(mode: str) -> Callable[[click.Context, click.Parameter, bool], None]:
        def callback(context: click.Context, _: click.Parameter, chosen: bool) -> None:
            chosen_before = context.params.get("output", Output()).mode
            if chosen and chosen_before not in (HUMAN, mode):
                raise click.UsageError("--json and -q exclude each other")
            if chosen or "output" not in context.params:
                context.params["output"] = Output(mode=mode if chosen else HUMAN)

        return callback

    quiet = click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=choose(QUIET), help="Print ids only."
    )
    as_json = click.option(
        "--json", is_flag=True, expose_value=False, callback=choose(JSON), help="Print JSON."
    )
    return as_json(quiet(naming_options(command)))


def _narrowed(rows: Sequence[Row], columns: Sequence[str]) -> Sequence[Row]:
    if not columns:
        return rows
    return [{column: row.get(column) for column in columns} for row in rows]


def _draw(columns: Sequence[str], cells: Sequence[Sequence[str]], *, to_stderr: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        # The first names the record and is what people copy: on a narrow terminal the others are folded.
        widest = max(len(row[index]) for row in cells)
        table.add_column(
            column, no_wrap=index == 0, min_width=widest if index == 0 else None, overflow="fold"
        )
    for row in cells:
        table.add_row(*map(escape, row))
    Console(stderr=to_stderr).print(table)


def _align(columns: Sequence[str], cells: Sequence[Sequence[str]], *, to_stderr: bool) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (columns, *cells):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip(), err=to_stderr)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _sized(name: str, value: object) -> object:
    """A size for people: 2.3 MB."""
    if not name.endswith("_bytes") or not isinstance(value, int):
        return value
    size, units = float(value), ["B", "kB", "MB", "GB", "TB"]
    while size >= _KILO and len(units) > 1:
        size, units = size / _KILO, units[1:]
    return f"{size:.{0 if units[0] == 'B' else 1}f} {units[0]}"


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")  # in the reader's own time zone
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(entry)}".rstrip() for name, entry in value.items())
    return str(value)
