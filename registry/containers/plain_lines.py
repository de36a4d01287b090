"""Plain text: every line that is not blank is an example, as the `text` loader of `datasets` takes it."""

from collections.abc import Iterator

from registry.containers.records import Fault, Record
from registry.containers.sources import Source, readable


def read_plain_lines(source: Source) -> Iterator[Record | Fault]:
    """The lines of a file."""
    with readable(source.name), source.open_text() as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                yield Record(values={"text": line.rstrip("\r\n")}, place=f"line {number}", line=number)
