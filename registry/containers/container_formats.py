"""Every kind of file that examples come in, in one table: how it is recognised, how its records are read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from registry.containers.columnar import read_arrow, read_parquet
from registry.containers.delimited import read_delimited
from registry.containers.foreign_files import foreign_kind
from registry.containers.json_lines import begins_with_objects, read_json_lines
from registry.containers.json_values import read_json_values
from registry.containers.plain_lines import read_plain_lines
from registry.containers.records import Fault, Record
from registry.containers.sources import BEGINNING_BYTES, COMPRESSIONS, Source, readable
from registry.errors import InvalidDataset


@dataclass(frozen=True, kw_only=True)
class Container:
    """One kind of file."""

    name: str
    #: For people: "a JSON array".
    what: str
    #: How names of such files end.
    endings: tuple[str, ...]
    recognises: Callable[[Source], bool]
    read: Callable[[Source], Iterator[Record | Fault]]
    is_text: bool = True


def _text_of(source: Source) -> str:
    return source.beginning.decode(source.encoding, errors="ignore").lstrip()


def _is_parquet(source: Source) -> bool:
    return source.beginning.startswith(b"PAR1")


def _is_arrow(source: Source) -> bool:
    # A stream begins with a continuation mark, then the length of the schema.
    return source.beginning.startswith(b"ARROW1") or (
        source.beginning.startswith(b"\xff\xff\xff\xff") and source.lower_name.endswith(".arrow")
    )


def _is_json_lines(source: Source) -> bool:
    text = _text_of(source)
    # A line alone may be an object that holds a list of examples, unless it is too long to be seen whole.
    is_long_line = len(source.beginning) >= BEGINNING_BYTES and source.lower_name.endswith(".jsonl")
    return begins_with_objects(text.encode()) and ("\n" in text.strip() or is_long_line)


def _is_json(source: Source) -> bool:
    return _text_of(source)[:1] in ("{", "[") and bool(_text_of(source))


def _ends(*endings: str) -> Callable[[Source], bool]:
    return lambda source: source.lower_name.endswith(endings)


#: The first that recognises a file reads it: what bytes say goes before what names say.
CONTAINERS = (
    Container(
        name="parquet",
        what="Parquet",
        endings=(".parquet",),
        recognises=_is_parquet,
        read=read_parquet,
        is_text=False,
    ),
    Container(
        name="arrow",
        what="Arrow",
        endings=(".arrow",),
        recognises=_is_arrow,
        read=read_arrow,
        is_text=False,
    ),
    Container(
        name="jsonl",
        what="JSONL",
        endings=(".jsonl", ".ndjson"),
        recognises=_is_json_lines,
        read=read_json_lines,
    ),
    Container(name="json", what="JSON", endings=(".json",), recognises=_is_json, read=read_json_values),
    Container(
        name="csv",
        what="a table",
        endings=(".csv", ".tsv"),
        recognises=_ends(".csv", ".tsv"),
        read=read_delimited,
    ),
    Container(
        name="text", what="plain text", endings=(".txt",), recognises=_ends(".txt"), read=read_plain_lines
    ),
)

#: Endings of names of files that may hold examples.
ENDINGS = tuple(ending for row in CONTAINERS for ending in row.endings)


def container_of(source: Source) -> Container:
    """The kind of a file.

    Raises:
        InvalidDataset: it is of another kind, which the message names with the way out, or empty.
    """
    if not source.beginning.strip():
        raise InvalidDataset(f"{source.name} is empty; a dataset has at least one example")
    foreign = foreign_kind(source.beginning, source.lower_name)
    if foreign is not None:
        raise InvalidDataset(f"{source.name} is {foreign.what}; {foreign.remedy.format(name=source.name)}")
    found = next((row for row in CONTAINERS if row.recognises(source)), None)
    if found is None or (found.is_text and source.encoding == "utf-8" and b"\0" in source.beginning[:512]):
        raise _unknown(source)
    return found


def read_records(source: Source, container: Container) -> Iterator[Record | Fault]:
    """Everything that a file holds, in order; what cannot be decompressed or decoded refuses the file."""
    with readable(source.name):
        yield from container.read(source)


def without_ending(name: str) -> str | None:
    """A file's name without its endings, a compression's included; None if it has none that is known."""
    stem = name
    for compression in COMPRESSIONS:
        stem = stem.removesuffix(compression.ending)
    ending = next((one for one in ENDINGS if stem.lower().endswith(one)), None)
    return None if ending is None else stem[: -len(ending)]


def _unknown(source: Source) -> InvalidDataset:
    if b"\0" in source.beginning[:512]:
        wide = source.beginning[1:8:2].count(0) >= 3 or source.beginning[0:8:2].count(0) >= 3
        what = (
            "UTF-16 without a byte order mark; convert it: iconv -f UTF-16LE -t UTF-8"
            f" {source.name} > converted"
            if wide
            else f"no text; it begins with {source.beginning[:8].hex(' ')}"
        )
        return InvalidDataset(f"{source.name} is {what}")
    return InvalidDataset(
        f"{source.name} holds no examples in a form that is known: it begins with"
        f" {_text_of(source)[:40]!r}. Give JSONL, JSON, Parquet or Arrow, or name a table .csv or .tsv and a"
        " text of an example a line .txt"
    )
