"""One file, decompressed and decoded as it is read: what its bytes say about both goes before its name."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast

from registry.errors import InvalidDataset

#: How much of a file is looked at to know what it is.
BEGINNING_BYTES = 64 * 1024
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Compression:
    """One way to compress a file."""

    name: str
    #: First bytes of every such file.
    mark: bytes
    #: How names of such files end, beside the ending of what is compressed.
    ending: str
    open: Callable[[Path], IO[bytes]]


def _open_zstandard(path: Path) -> IO[bytes]:
    import pyarrow

    return cast("IO[bytes]", pyarrow.input_stream(str(path), compression="zstd"))


def _opener(module: Any) -> Callable[[Path], IO[bytes]]:
    return lambda path: cast("IO[bytes]", module.open(path, "rb"))


COMPRESSIONS = (
    Compression(name="gzip", mark=b"\x1f\x8b", ending=".gz", open=_opener(gzip)),
    Compression(name="zstd", mark=b"\x28\xb5\x2f\xfd", ending=".zst", open=_open_zstandard),
    Compression(name="bzip2", mark=b"BZh", ending=".bz2", open=_opener(bz2)),
    Compression(name="xz", mark=b"\xfd7zXZ\0", ending=".xz", open=_opener(lzma)),
)

#: Byte order mark -> the encoding it stands for; the longer marks first, for they begin like others.
_MARKS: Mapping[bytes, str] = MappingProxyType(
    {
        codecs.BOM_UTF8: "utf-8-sig",
        codecs.BOM_UTF32_LE: "utf-32",
        codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",
        codecs.BOM_UTF16_BE: "utf-16",
    }
)
#: Encoding -> how people call it.
ENCODING_NAMES: Mapping[str, str] = MappingProxyType(
    {"utf-8-sig": "UTF-8 with a byte order mark", "utf-16": "UTF-16", "utf-32": "UTF-32"}
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that was copied, and what its first bytes say."""

    path: Path
    #: As its user called it.
    name: str
    compression: Compression | None
    #: First bytes, decompressed.
    beginning: bytes
    #: Of a text.
    encoding: str

    def open(self) -> IO[bytes]:
        """Its bytes, decompressed."""
        return self.path.open("rb") if self.compression is None else self.compression.open(self.path)

    def open_utf8(self) -> IO[bytes]:
        """The text in it as UTF-8 without a byte order mark."""
        if self.encoding == "utf-8":
            return self.open()
        return cast("IO[bytes]", _Recoded(self.open(), self.encoding))

    def open_text(self) -> io.TextIOWrapper:
        """The text in it, its line ends as they are."""
        return io.TextIOWrapper(cast("Any", self.open()), encoding=self.encoding, newline="")

    @property
    def lower_name(self) -> str:
        """Its name in lower case, without the ending of its compression."""
        ending = "" if self.compression is None else self.compression.ending
        return self.name.lower().removesuffix(ending)


def opened_source(path: Path, name: str) -> Source:
    """Look at the first bytes of a file; it is called `name` in messages.

    Raises:
        InvalidDataset: it cannot be decompressed.
    """
    with path.open("rb") as raw:
        first = raw.read(BEGINNING_BYTES)
    compression = next((row for row in COMPRESSIONS if first.startswith(row.mark)), None)
    if compression is not None:
        with readable(name), compression.open(path) as decompressed:
            first = decompressed.read(BEGINNING_BYTES)
    encoding = next((found for mark, found in _MARKS.items() if first.startswith(mark)), "utf-8")
    return Source(path=path, name=name, compression=compression, beginning=first, encoding=encoding)


class readable:  # noqa: N801 - read as a phrase: with readable(name)
    """What goes wrong in decompressing or decoding a file, as its refusal."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        """Begin to read."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        match error:
            case UnicodeDecodeError():
                raise InvalidDataset(
                    f"{self._name} is not {error.encoding.upper()}: {error.reason} at byte"
                    f" {error.object[error.start : error.start + 1].hex()}; convert it, where it is of"
                    f" Windows: iconv -f WINDOWS-1252 -t UTF-8 {self._name} > converted"
                ) from error
            case EOFError() | zlib.error() | lzma.LZMAError() | OSError():
                raise InvalidDataset(
                    f"{self._name} cannot be decompressed: {error}; it was cut off or changed: get it again"
                ) from error


class _Recoded(io.RawIOBase):
    """A stream of bytes in another encoding, read as UTF-8."""

    def __init__(self, source: IO[bytes], encoding: str) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._chunks = self._recoded()

    def read(self, _: int = -1) -> bytes:
        """The next bytes, of any number; none at the end."""
        return next(self._chunks, b"")

    def close(self) -> None:
        self._source.close()
        super().close()

    def _recoded(self) -> Iterator[bytes]:
        while chunk := self._source.read(_CHUNK_BYTES):
            if text := self._decoder.decode(chunk):
                yield text.encode()
        if rest := self._decoder.decode(b"", final=True):
            yield rest.encode()
