"""What lies in the place of a file that was not fetched is called what it is."""

import re
from pathlib import Path

import pytest

from registry.files.stand_ins import stand_in


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer.*git lfs pull in repo"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n <html lang=en>", "a web page"),
        (b"", "empty"),
    ],
)  # fmt: skip
def test_a_stand_in_is_named_with_the_way_to_the_file(start: bytes, words: str) -> None:
    told = stand_in(start, called=Path("repo/adapter_model.safetensors"))
    assert told is not None
    assert re.search(words, told)


@pytest.mark.parametrize("start", [b'{"r": 8}', b"\x40\x00\x00\x00\x00\x00\x00\x00{", b"PK\x03\x04"])
def test_any_other_file_is_taken_for_itself(start: bytes) -> None:
    assert stand_in(start, called=Path("x")) is None
