"""Records of any file as examples of one form: each is taken, or its fault is noted."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from formats.chat_examples import ChatExample, checked_example
from formats.chat_messages import told
from registry.containers.container_formats import Container, container_of, read_records
from registry.containers.records import Fault, Record
from registry.containers.sources import ENCODING_NAMES, Source
from registry.errors import InvalidDataset
from registry.example_shapes.column_mapping import mapped
from registry.example_shapes.example_shapes import ExampleShape, shape_of
from registry.example_shapes.refused_examples import refused_kind
from registry.example_shapes.values import canonical_names

#: How many bad examples a message names; all are counted.
SHOWN_FAULTS = 20
_SHOWN_COLUMNS = 12


class _NotAnExample(Exception):
    """A record that is none, and why; `remedy` is for a file that begins with it."""

    def __init__(self, what: str, *, remedy: str | None = None) -> None:
        super().__init__(what)
        self.remedy = remedy


@dataclass(kw_only=True)
class Conversion:
    """What came of the records of one file so far."""

    source: Source
    container: Container
    mapping: Mapping[str, str] | None
    shapes: Counter[str] = field(default_factory=Counter)
    unread: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    fault_count: int = 0

    @property
    def examples(self) -> int:
        """How many were taken."""
        return sum(self.shapes.values())

    @property
    def taken_for(self) -> str:
        """What the file was taken for, in words."""
        packed = "" if self.source.compression is None else f" ({self.source.compression.name})"
        encoding = ENCODING_NAMES.get(self.source.encoding)
        written = "" if encoding is None else f" in {encoding}"
        unread = f"; not read: {', '.join(sorted(self.unread)[:_SHOWN_COLUMNS])}" if self.unread else ""
        return f"{self.container.what}{packed}{written} of {' and '.join(self.shapes) or 'nothing'}{unread}"

    def run(self) -> Iterator[ChatExample]:
        """The examples, in order.

        Raises:
            InvalidDataset: the file cannot be read, or its first record shows that it holds no examples.
        """
        for record in read_records(self.source, self.container):
            found = record if isinstance(record, Fault) else self._example(record)
            if isinstance(found, ChatExample):
                yield found
            else:
                self.fault_count += 1
                if len(self.faults) < SHOWN_FAULTS:
                    self.faults.append(found)

    def _example(self, record: Record) -> ChatExample | Fault:
        is_first = not self.shapes and not self.fault_count
        try:
            values = canonical_names(self._named(record))
            shape = self._shape(values)
            read = shape.convert(values, _expected)
            example = checked_example(read.stored, _expected)
        except _NotAnExample as refused:
            if is_first and refused.remedy is not None:
                whole = f"{self.source.name} is {self.container.what} of {refused}; {refused.remedy}"
                raise InvalidDataset(whole, line=record.line) from refused
            return Fault(what=str(refused), place=record.place, line=record.line)
        self.shapes[shape.what] += 1
        self.unread |= read.unread if self.mapping is None else set()
        return example

    def _named(self, record: Record) -> Mapping[str, Any]:
        if self.mapping is None:
            return record.values
        try:
            return mapped(record.values, self.mapping)
        except InvalidDataset as error:
            raise InvalidDataset(f"{self.source.name}, {record.place}: {error}", line=record.line) from error

    def _shape(self, values: Mapping[str, Any]) -> ExampleShape:
        refused = None if self.mapping is not None else refused_kind(values)
        if refused is not None:
            remedy = refused.remedy.format(
                file=self.source.name, register=f"zoo register dataset {self.source.name}"
            )
            raise _NotAnExample(refused.what, remedy=remedy)
        shape = shape_of(values)
        if shape is None:
            columns = ", ".join(map(repr, list(values)[:_SHOWN_COLUMNS])) or "nothing"
            raise _NotAnExample(
                f"examples with {columns}, which are no names that are known (messages; conversations;"
                " instruction and output; prompt and completion; text)",
                remedy="say which is which: zoo register dataset"
                f" {self.source.name} --map prompt=COLUMN,completion=COLUMN",
            )
        return shape


def needs_no_conversion(values: Mapping[str, Any]) -> bool:
    """Whether an object means as it stands what it would mean after conversion."""
    named = canonical_names(values)
    shape = shape_of(named)
    if shape is None or refused_kind(named) is not None:
        return False
    try:
        converted = shape.convert(named, _expected)
        return checked_example(converted.stored, _expected) == checked_example(values, _expected)
    except _NotAnExample:
        return False


def conversion_of(source: Source, mapping: Mapping[str, str] | None) -> Conversion:
    """The conversion of a file, nothing of it read yet.

    Raises:
        InvalidDataset: it is no file of examples; the message says what it is.
    """
    return Conversion(source=source, container=container_of(source), mapping=mapping)


def _expected(what: str, got: Any, message: int | None) -> Exception:
    return _NotAnExample(told(what, got, message))
