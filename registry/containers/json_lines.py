"""JSONL: one JSON object a line; blank lines are passed over, and a bad line spoils no other."""

from collections.abc import Iterator

from formats.chat_examples import lines_of
from formats.strict_json import parse_object
from registry.containers.records import Fault, Record
from registry.containers.sources import Source
from registry.errors import InvalidDataset


class _NoObject(Exception):
    """A line that holds none."""


def read_json_lines(source: Source) -> Iterator[Record | Fault]:
    """The objects of a file, in order.

    Raises:
        InvalidDataset: a line is too long to be held.
    """
    with source.open_utf8() as opened:
        for number, line in enumerate(lines_of(opened, source.name, _too_long), 1):
            if line.strip():
                yield _record(line, number)


def begins_with_objects(beginning: bytes) -> bool:
    """Whether a text holds an object a line, by its first lines: a longer one goes over several."""
    lines = [line.strip() for line in beginning.split(b"\n") if line.strip()]
    if not lines or not lines[0].startswith(b"{"):
        return False
    return len(lines) == 1 or all(line.startswith(b"{") for line in lines[:2]) or lines[0].endswith(b"}")


def _record(line: bytes, number: int) -> Record | Fault:
    place = f"line {number}"
    try:
        values = parse_object(line, what="it", refusal=_NoObject)
    except _NoObject as refused:
        return Fault(what=str(refused), place=place, line=number)
    return Record(values=values, place=place, line=number)


def _too_long(message: str, line: int | None) -> InvalidDataset:
    return InvalidDataset(message, line=line)
