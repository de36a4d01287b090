"""JSON that is not line by line: an array of examples, an object that holds one, or objects in a row."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from formats.strict_json import parse_next, shown
from registry.containers.records import Fault, Record
from registry.containers.sources import Source, readable
from registry.errors import InvalidDataset

#: Such a file is held in memory.
LIMIT_BYTES = 1024**3
_BLANK = " \t\r\n"


def read_json_values(source: Source) -> Iterator[Record | Fault]:
    """The objects of a file, in order.

    Raises:
        InvalidDataset: it is not JSON, with line and column; or there is no list of examples in it; or it is
            too large to be held.
    """
    with readable(source.name), source.open_utf8() as opened:
        data = bytearray()
        while chunk := opened.read(1024 * 1024):
            data += chunk
            if len(data) > LIMIT_BYTES:
                raise InvalidDataset(
                    f"{source.name} is one JSON value of more than {LIMIT_BYTES:,} bytes; write one object a"
                    f" line: jq -c '.[]' {source.name} > examples.jsonl"
                )
        text = data.decode()
    yield from _records(text, source.name)


def _records(text: str, name: str) -> Iterator[Record | Fault]:
    start = _after_blanks(text, 0)
    if text[start : start + 1] == "[" and not _is_conversation_next(text, start, name):
        values = _elements(text, start, name)
    else:
        values = _sequence(text, start, name)
    line, counted = 1, 0
    for number, (value, position) in enumerate(values, 1):
        line, counted = line + text.count("\n", counted, position), position
        place = f"example {number} (line {line})"
        if _is_conversation(value):
            yield Record(values={"messages": value}, place=place, line=line)
        elif isinstance(value, dict):
            yield Record(values=value, place=place, line=line)
        else:
            yield Fault(what=f"expected a JSON object, got {shown(value)}", place=place, line=line)


def _elements(text: str, start: int, name: str) -> Iterator[tuple[Any, int]]:
    """Elements of the array that begins there, and where each does."""
    position = _after_blanks(text, start + 1)
    while text[position : position + 1] != "]":
        value, end = parse_next(text, position, what=name, refusal=InvalidDataset)
        yield value, position
        end = _after_blanks(text, end)
        if text[end : end + 1] not in (",", "]"):
            raise _broken(text, end, name, "expected ',' or ']' after an element")
        position = _after_blanks(text, end + 1) if text[end] == "," else end
    rest = _after_blanks(text, position + 1)
    if rest < len(text):
        raise _broken(text, rest, name, "something follows the array")


def _sequence(text: str, start: int, name: str) -> Iterator[tuple[Any, int]]:
    """Values one after another; of a single object that holds a list of objects, these."""
    first, end = parse_next(text, start, what=name, refusal=InvalidDataset)
    position = _after_blanks(text, end)
    inner = _list_inside(first)
    if position == len(text) and inner is not None:
        yield from ((value, start) for value in inner)
        return
    yield first, start
    while position < len(text):
        value, end = parse_next(text, position, what=name, refusal=InvalidDataset)
        yield value, position
        position = _after_blanks(text, end)


def _list_inside(value: Any) -> Sequence[Any] | None:
    """The one list of objects that an object holds, which is not itself an example."""
    if not isinstance(value, Mapping):
        return None
    lists = [held for held in value.values() if isinstance(held, list) and held and isinstance(held[0], dict)]
    return lists[0] if len(lists) == 1 and not _is_conversation(lists[0]) else None


def _is_conversation_next(text: str, start: int, name: str) -> bool:
    """Whether the array that begins there is itself a conversation, by its first element."""
    position = _after_blanks(text, start + 1)
    if text[position : position + 1] != "{":
        return text[position : position + 1] not in ("]", "[", "")
    first, _ = parse_next(text, position, what=name, refusal=InvalidDataset)
    return _is_message(first)


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and _is_message(value[0])


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        {"role", "content"} <= set(value) or {"from", "value"} <= set(value)
    )


def _after_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position] in _BLANK:
        position += 1
    return position


def _broken(text: str, position: int, name: str, what: str) -> InvalidDataset:
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    return InvalidDataset(f"{name} is not JSON: {what} at line {line}, column {column}", line=line)
