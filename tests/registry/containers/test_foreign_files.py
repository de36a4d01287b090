"""Files that hold no examples are refused by what they are, with the way out."""

import pickle
from pathlib import Path

import pytest

from registry.containers.foreign_files import FOREIGN_FILES
from registry.errors import InvalidDataset
from tests.registry.written_files import checked

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FILES = {
    "x.jsonl": (LFS, "is a Git LFS pointer, not the data .* git lfs pull"),
    "x.xlsx": (b"PK\x03\x04rest", "is a spreadsheet; save its sheet as CSV"),
    "x.zip": (b"PK\x03\x04rest", r"is a ZIP archive; unpack it.*unzip .*x\.zip"),
    "x.tar": (b"\0" * 257 + b"ustar" + b"\0" * 200, r"is a tar archive; .*tar -xf .*x\.tar"),
    "x.7z": (b"7z\xbc\xaf\x27\x1c" + b"\0", "is an archive"),
    "x.pkl": (pickle.dumps([{"prompt": "q"}]), "is a pickle, which runs code"),
    "x.json": (b"<!DOCTYPE html>\n<html>", "is a web page; .*/resolve/"),
    "x.safetensors": (b"\x20\0\0\0\0\0\0\0" + b'{"a": {}}', "is model weights; .*zoo register adapter"),
    "x.gguf": (b"GGUF\3\0\0\0", "is model weights"),
    "x.pdf": (b"%PDF-1.7", "is a PDF document"),
    "x.db": (b"SQLite format 3\0", "is an SQLite database"),
    "x.npy": (b"\x93NUMPY\1\0", "is an array of NumPy"),
    "x.h5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    "x.orc": (b"ORC\0", "is an ORC file"),
    "x.avro": (b"Obj\x01", "is an Avro file"),
    "x.xml": (b"<?xml version='1.0'?>", "is an XML document"),
    "x.png": (b"\x89PNG\r\n", "is an image or a recording; adapters are trained on text only here"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_refused_by_what_it_is(tmp_path: Path, name: str) -> None:
    data, said = FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidDataset, match=said):
        checked(tmp_path / name)


def test_every_row_of_the_table_is_tried() -> None:
    assert {row.what for row in FOREIGN_FILES} == {
        next(row.what for row in FOREIGN_FILES if row.recognises(data, name))
        for name, (data, _) in FILES.items()
    }
