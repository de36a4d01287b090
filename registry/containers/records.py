"""What is found in a file before it is known to be an example: a record, or the fault in its place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Record:
    """Named values of one element of a file."""

    values: Mapping[str, Any]
    #: Where it is, in words: `line 3`, `row 3`, `example 3 (line 14)`.
    place: str
    #: The line or row, counted from 1.
    line: int


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An element of a file that cannot be read, or is no example."""

    what: str
    place: str
    line: int
