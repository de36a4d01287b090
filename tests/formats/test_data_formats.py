"""The table of data formats: a file is recognised by its name, and every row reads what it says."""

import io

import pytest

from formats.data_formats import CHAT, ENDINGS, FORMATS, format_of, named_format

EXAMPLE = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'


@pytest.mark.parametrize("name", ["bio.train.jsonl", "x.jsonl"])
def test_a_file_is_recognised_by_its_ending(name: str) -> None:
    assert named_format(name) is format_of(name) is CHAT


@pytest.mark.parametrize("name", ["bio.json", "jsonl", "bio.jsonl\n", ""])
def test_a_name_without_a_known_ending_is_taken_for_chat(name: str) -> None:
    assert named_format(name) is None
    assert format_of(name) is CHAT


def test_formats_are_found_by_the_recorded_name_and_differ_in_ending() -> None:
    assert all(row.name == name for name, row in FORMATS.items())
    assert len({row.ending for row in FORMATS.values()}) == len(FORMATS)
    assert ENDINGS == ".jsonl"


def test_a_format_reads_its_files() -> None:
    (example,) = FORMATS["chat"].read(io.BytesIO(EXAMPLE), "x.jsonl", lambda said, _: AssertionError(said))
    assert example.messages == (("user", "q"), ("assistant", "a"))
