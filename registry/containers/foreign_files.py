"""Files that hold no examples, in one table: recognised by their first bytes, refused by what they are."""

from collections.abc import Callable
from dataclasses import dataclass

_SPREADSHEETS = (".xlsx", ".xlsm", ".ods", ".xls")
#: Where a tar archive says that it is one.
_TAR_MARK_AT = 257


@dataclass(frozen=True, kw_only=True)
class ForeignFile:
    """One kind of file that is no training data."""

    #: "a Git LFS pointer"
    what: str
    #: What makes it usable; `{name}` stands for the file.
    remedy: str
    #: Whether a file is of this kind, by its first bytes and its name in lower case.
    recognises: Callable[[bytes, str], bool]


def _begins(*marks: bytes) -> Callable[[bytes, str], bool]:
    return lambda beginning, _: beginning.startswith(marks)


def _is_pickle(beginning: bytes, _: str) -> bool:
    return beginning[:1] == b"\x80" and beginning[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def _is_spreadsheet(beginning: bytes, name: str) -> bool:
    return name.endswith(_SPREADSHEETS) and beginning.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0"))


def _is_safetensors(beginning: bytes, _: str) -> bool:
    return len(beginning) > 9 and beginning[5:8] == b"\0\0\0" and beginning[8:10] in (b'{"', b"{}")


def _is_tar(beginning: bytes, _: str) -> bool:
    return beginning[_TAR_MARK_AT : _TAR_MARK_AT + 5] == b"ustar"


def _is_page(beginning: bytes, _: str) -> bool:
    return beginning.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


_EXPORT = "export its examples as JSONL or CSV"

FOREIGN_FILES = (
    ForeignFile(
        what="a Git LFS pointer, not the data it stands for",
        remedy="fetch the data, in that repository: git lfs pull",
        recognises=_begins(b"version https://git-lfs.github.com/spec"),
    ),
    ForeignFile(
        what="a spreadsheet", remedy="save its sheet as CSV, and give that", recognises=_is_spreadsheet
    ),
    ForeignFile(
        what="a ZIP archive",
        remedy="unpack it, and give the folder: unzip {name} -d unpacked",
        recognises=_begins(b"PK\x03\x04", b"PK\x05\x06"),
    ),
    ForeignFile(
        what="a tar archive",
        remedy="unpack it, and give the folder: mkdir unpacked && tar -xf {name} -C unpacked",
        recognises=_is_tar,
    ),
    ForeignFile(
        what="an archive",
        remedy="unpack it, and give the folder",
        recognises=_begins(b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07"),
    ),
    ForeignFile(
        what="a pickle, which runs code when it is read",
        remedy="where you trust it, write its examples as JSONL and give that",
        recognises=_is_pickle,
    ),
    ForeignFile(
        what="a web page",
        remedy="download the file itself: on the Hugging Face hub its address has /resolve/ where the page's"
        " has /blob/",
        recognises=_is_page,
    ),
    ForeignFile(
        what="model weights",
        remedy="register an adapter by its folder: zoo register adapter FOLDER",
        recognises=lambda beginning, name: _is_safetensors(beginning, name) or beginning.startswith(b"GGUF"),
    ),
    ForeignFile(what="a PDF document", remedy=_EXPORT, recognises=_begins(b"%PDF-")),
    ForeignFile(what="an SQLite database", remedy=_EXPORT, recognises=_begins(b"SQLite format 3\0")),
    ForeignFile(what="an array of NumPy", remedy=_EXPORT, recognises=_begins(b"\x93NUMPY")),
    ForeignFile(what="an HDF5 file", remedy=_EXPORT, recognises=_begins(b"\x89HDF\r\n")),
    ForeignFile(what="an ORC file", remedy=_EXPORT, recognises=_begins(b"ORC")),
    ForeignFile(what="an Avro file", remedy=_EXPORT, recognises=_begins(b"Obj\x01")),
    ForeignFile(what="an XML document", remedy=_EXPORT, recognises=_begins(b"<?xml")),
    ForeignFile(
        what="an image or a recording; adapters are trained on text only here",
        remedy="describe it in text",
        recognises=_begins(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"OggS", b"ID3", b"fLaC"),
    ),
)


def foreign_kind(beginning: bytes, name: str) -> ForeignFile | None:
    """The row of a file by its first bytes, decompressed, and its name; None if it is none of them."""
    return next((row for row in FOREIGN_FILES if row.recognises(beginning, name.lower())), None)
