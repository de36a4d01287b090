"""Tables as text: a line of column names, then a row an example; the separator is found by that line."""

import csv
import sys
from collections.abc import Iterator, Sequence

from formats.chat_examples import LINE_LIMIT_BYTES
from registry.containers.records import Fault, Record
from registry.containers.sources import Source, readable
from registry.errors import InvalidDataset

_SEPARATORS = ",;\t|"


def read_delimited(source: Source) -> Iterator[Record | Fault]:
    """The rows of a table, in order; a line in messages is the last one of its row.

    Raises:
        InvalidDataset: there is no row of names, or two columns have one name, or a quotation has no end.
    """
    # Python's limit of 128 kB is global and made for other uses; a long answer may be longer.
    csv.field_size_limit(min(LINE_LIMIT_BYTES, sys.maxsize))
    with readable(source.name), source.open_text() as text:
        rows = csv.reader(text, delimiter=separator_of(_first_line(source), source.lower_name), strict=True)
        try:
            names = _column_names(next(rows, []), source.name)
            for row in rows:
                if row:
                    yield _record(names, row, rows.line_num)
        except csv.Error as error:
            raise InvalidDataset(
                f"{source.name}, line {rows.line_num}: the table cannot be read: {error}", line=rows.line_num
            ) from error


def separator_of(names: str, file_name: str) -> str:
    """What separates the columns, by the line of their names."""
    if file_name.endswith(".tsv"):
        return "\t"
    outside = "".join(names.split('"')[::2])
    return max(_SEPARATORS, key=lambda one: (outside.count(one), -_SEPARATORS.index(one)))


def _first_line(source: Source) -> str:
    return source.beginning.decode(source.encoding, errors="ignore").partition("\n")[0]


def _column_names(row: Sequence[str], name: str) -> Sequence[str]:
    names = [column.strip() for column in row]
    if not any(names):
        raise InvalidDataset(f"{name} has no line of column names, such as: prompt,completion", line=1)
    twice = next((column for column in names if names.count(column) > 1), None)
    if twice is not None:
        raise InvalidDataset(f"{name}, line 1: two columns are called {twice!r}", line=1)
    return names


def _record(names: Sequence[str], row: Sequence[str], line: int) -> Record | Fault:
    place = f"line {line}"
    if len(row) != len(names):
        what = f"expected {len(names)} columns, as in the first line, got {len(row)}"
        return Fault(what=what, place=place, line=line)
    return Record(values=dict(zip(names, row, strict=True)), place=place, line=line)
