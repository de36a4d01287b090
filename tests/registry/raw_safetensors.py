"""Safetensors files written byte by byte, so that tests can write wrong ones."""

import json
from pathlib import Path
from typing import Any


def raw_bytes(header: dict[str, Any] | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file's bytes; `length` is what the file claims its header's length to be."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    claimed = len(text) if length is None else length
    return claimed.to_bytes(8, "little") + text + data


def write_raw(
    path: Path, header: dict[str, Any] | bytes, data: bytes = b"", *, length: int | None = None
) -> Path:
    """Write such bytes; returns `path`."""
    path.write_bytes(raw_bytes(header, data, length=length))
    return path


def tensor(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """A header's entry."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
