"""Safetensors files, read by our own parser, which trusts no number in their header.

Format: 8 bytes header length, little-endian; a JSON object from tensor name to dtype, shape and byte range;
the bytes. https://huggingface.co/docs/safetensors. Knows nothing of LoRA.
"""

import contextlib
import io
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.strict_json import parse_object, shown
from registry.errors import WeightsInvalid
from registry.files.regular_files import open_regular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: The format allows 100 MB; 100,000 tensors with long names fit in this.
HEADER_LIMIT_BYTES = 8 * 1024 * 1024
TENSOR_LIMIT = 100_000
_CHUNK_BYTES = 1024 * 1024
_PREFIX_BYTES = 8
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_LARGEST = 2**63 - 1

#: dtype in the file -> bytes of one element.
ELEMENT_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}

#: dtype in the file -> numpy's name of the same bytes; BF16 has none and is widened by hand.
_NUMPY_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """One tensor: name, dtype and shape, and its byte range from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class SafetensorsFile:
    """An open file: its header, read once, and its tensors, all from the same descriptor."""

    def __init__(self, file: io.FileIO, called: Path) -> None:
        """Read the header of `file`, which messages name `called`; raises WeightsInvalid."""
        self._file = file
        self.called = called
        #: Every tensor, in the order of their bytes, which lie end to end and fill the file.
        self.entries = _parse(file, called)

    def data_of(self, entry: TensorEntry) -> bytearray:
        """The tensor's bytes; raises WeightsInvalid where the file ends before they do."""
        return _read_range(self._file, self.called, begin=entry.begin, end=entry.end)

    def chunks_of(self, entry: TensorEntry) -> Iterator[memoryview]:
        """The same in pieces, each of which is overwritten by the next."""
        buffer, position = memoryview(bytearray(_CHUNK_BYTES)), entry.begin
        self._file.seek(position)
        while position < entry.end:
            count = self._file.readinto(buffer[: min(entry.end - position, _CHUNK_BYTES)])
            if not count:
                raise _shortened(self.called)
            yield buffer[:count]
            position += count


@contextlib.contextmanager
def opened_tensors(path: Path, *, called: Path | None = None) -> Iterator[SafetensorsFile]:
    """Open a safetensors file, which messages name `called`.

    Raises:
        WeightsInvalid: `path` is no regular file, or anything in its header is not as the format says.
    """
    with open_regular(path, refusal=WeightsInvalid) as file:
        yield SafetensorsFile(file, called or path)


def values_of(data: bytearray, entry: TensorEntry, *, called: Path) -> "NDArray[np.float32]":
    """A tensor's bytes as float32, in its shape.

    Raises:
        WeightsInvalid: the dtype is no float of 16 to 64 bits.
    """
    import numpy as np

    if entry.dtype != "BF16" and entry.dtype not in _NUMPY_FLOATS:
        raise WeightsInvalid(
            f"{called}: {shown(entry.name)} is {entry.dtype}, expected F32, F16, BF16 or F64"
        )
    if entry.dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which callers refuse
            values = np.frombuffer(data, _NUMPY_FLOATS[entry.dtype]).astype(np.float32)
    return values.reshape(entry.shape)


def _parse(file: io.FileIO, path: Path) -> tuple[TensorEntry, ...]:
    file_bytes = os.fstat(file.fileno()).st_size
    if file_bytes < _PREFIX_BYTES:
        raise WeightsInvalid(f"{path} has {file_bytes} bytes, which is too short for a safetensors file")
    header_bytes = int.from_bytes(_read_range(file, path, begin=0, end=_PREFIX_BYTES), "little")
    if header_bytes > HEADER_LIMIT_BYTES:
        raise WeightsInvalid(
            f"{path} claims a header of {header_bytes:,} bytes, at most {HEADER_LIMIT_BYTES:,} are read:"
            " this is no safetensors file, or a damaged one"
        )
    data_begin = _PREFIX_BYTES + header_bytes
    if data_begin > file_bytes:
        raise WeightsInvalid(f"{path} ends inside its header: {file_bytes:,} bytes, header to {data_begin:,}")
    raw = _read_range(file, path, begin=_PREFIX_BYTES, end=data_begin)
    if not raw.startswith(b"{"):
        raise WeightsInvalid(f"{path}: the header does not begin with '{{'; this is no safetensors file")
    header = parse_object(bytes(raw), what=f"{path}: the header", refusal=WeightsInvalid)
    _check_metadata(header.pop(_METADATA, None), path)
    if len(header) > TENSOR_LIMIT:
        raise WeightsInvalid(f"{path} lists {len(header):,} tensors, at most {TENSOR_LIMIT:,} are read")
    entries = [_entry(name, fields, path, origin=data_begin) for name, fields in header.items()]
    return _contiguous(entries, path, begin=data_begin, end=file_bytes)


def _check_metadata(metadata: Any, path: Path) -> None:
    if metadata is None:  # as mlx writes where there is none
        return
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise WeightsInvalid(f"{path}: {_METADATA} must map text to text, got {shown(metadata)}")


def _entry(name: str, fields: Any, path: Path, *, origin: int) -> TensorEntry:
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(fields, dict) or set(fields) != _FIELDS:
        raise WeightsInvalid(f"{where} must have dtype, shape and data_offsets, got {shown(fields)}")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        raise WeightsInvalid(f"{where} has the unknown dtype {shown(dtype)}")
    if not _are_sizes(shape):
        raise WeightsInvalid(f"{where} has the shape {shown(shape)}, expected sizes below 2^63")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise WeightsInvalid(f"{where} has data_offsets {shown(offsets)}, expected [begin, end]")
    # Python's integers do not overflow, and offsets are bounded, so no later reader's will either.
    needed = math.prod(shape) * ELEMENT_BYTES[dtype]
    if needed != offsets[1] - offsets[0]:
        raise WeightsInvalid(
            f"{where} of {dtype} {shown(shape)} needs {needed:,} bytes, its data_offsets"
            f" span {offsets[1] - offsets[0]:,}"
        )
    return TensorEntry(
        name=name, dtype=dtype, shape=tuple(shape), begin=origin + offsets[0], end=origin + offsets[1]
    )


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 32
        and all(type(item) is int and 0 <= item <= _LARGEST for item in value)
    )


def _contiguous(entries: list[TensorEntry], path: Path, *, begin: int, end: int) -> tuple[TensorEntry, ...]:
    ordered = sorted(entries, key=lambda entry: (entry.begin, entry.end))
    position = begin
    for entry in ordered:
        if entry.begin != position:
            fault = "overlaps what is before it" if entry.begin < position else "leaves a gap before it"
            raise WeightsInvalid(f"{path}: tensor {shown(entry.name)} {fault}, at byte {entry.begin:,}")
        position = entry.end
    if position != end:
        fault = "ends inside its tensors" if position > end else "has bytes after its last tensor"
        raise WeightsInvalid(f"{path} {fault}: tensors to byte {position:,}, file to {end:,}")
    return tuple(ordered)


def _read_range(file: io.FileIO, path: Path, *, begin: int, end: int) -> bytearray:
    data = bytearray(end - begin)
    view, filled = memoryview(data), 0
    file.seek(begin)
    while filled < len(data):
        count = file.readinto(view[filled:])
        if not count:
            raise _shortened(path)
        filled += count
    return data


def _shortened(path: Path) -> WeightsInvalid:
    return WeightsInvalid(f"{path} became shorter while it was read")
