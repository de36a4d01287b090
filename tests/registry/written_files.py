"""Files of examples as other programs write them, and the examples that the registry reads from them."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from formats.chat_examples import ChatExample, read_chat_jsonl
from registry.files.artifacts import ArtifactStore
from registry.intake.dataset_files import DatasetManifest
from registry.registration.datasets import AS_IT_IS, Reading, check_dataset

Rows = Sequence[Any]


def json_lines(rows: Rows) -> bytes:
    """One object a line."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def json_array(rows: Rows) -> bytes:
    """One array, over several lines."""
    return json.dumps(list(rows), indent=2).encode()


def delimited(rows: Rows, separator: str = ",") -> bytes:
    """A table with a line of names."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet_table(rows: Rows) -> bytes:
    """A Parquet file."""
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()


def arrow_stream(rows: Rows) -> bytes:
    """An Arrow stream, as `datasets` saves it."""
    table = pa.Table.from_pylist(list(rows))
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def arrow_file(rows: Rows) -> bytes:
    """An Arrow file."""
    table = pa.Table.from_pylist(list(rows))
    sink = io.BytesIO()
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _zstandard(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


#: Ending of a name -> the writer of such files.
CONTAINERS: Mapping[str, Callable[[Rows], bytes]] = {
    ".jsonl": json_lines,
    ".json": json_array,
    ".csv": delimited,
    ".tsv": lambda rows: delimited(rows, "\t"),
    ".parquet": parquet_table,
    ".arrow": arrow_stream,
}
#: Ending of a name -> what compresses.
COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": _zstandard,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def checked(file: Path, reading: Reading = AS_IT_IS) -> tuple[DatasetManifest, list[ChatExample], bytes]:
    """What a registration finds in a file, the examples it would store, and their bytes."""
    with tempfile.TemporaryDirectory() as made:
        found = check_dataset(file, ArtifactStore(made), reading)
        stored = found.copy.read()
    examples = list(read_chat_jsonl(io.BytesIO(stored), "stored", lambda said, _: AssertionError(said)))
    return found.manifest, examples, stored
