"""Parquet and Arrow files, the form in which hubs and `datasets` keep examples."""

from collections.abc import Iterator
from typing import Any

from registry.containers.records import Fault, Record
from registry.containers.sources import Source
from registry.errors import InvalidDataset

_ROWS_AT_ONCE = 1024


def read_parquet(source: Source) -> Iterator[Record | Fault]:
    """The rows of a Parquet file.

    Raises:
        InvalidDataset: it is damaged, or what it is compressed by is unknown.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        with source.open() as opened:
            yield from _rows(parquet.ParquetFile(opened).iter_batches(batch_size=_ROWS_AT_ONCE))
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(source, "Parquet", error) from error


def read_arrow(source: Source) -> Iterator[Record | Fault]:
    """The rows of an Arrow file or stream.

    Raises:
        InvalidDataset: it is damaged.
    """
    import pyarrow
    from pyarrow import ipc

    try:
        with source.open() as opened:
            if source.beginning.startswith(b"ARROW1"):
                file = ipc.open_file(opened)
                yield from _rows(file.get_batch(index) for index in range(file.num_record_batches))
            else:
                yield from _rows(ipc.open_stream(opened))
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(source, "Arrow", error) from error


def _rows(batches: Any) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            yield Record(values=values, place=f"row {number}", line=number)


def _damaged(source: Source, what: str, error: Exception) -> InvalidDataset:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InvalidDataset(f"{source.name} is a damaged {what} file: {said}; get it again")
