"""JSON that Python would take and we do not."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from formats.strict_json import has_key, parse, parse_object, read_object, shown
from registry.errors import AdapterConfigInvalid, InvalidDataset

REFUSED = {
    "a byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "UTF-16": ("{}".encode("utf-16"), "byte order mark"),
    "UTF-16 without a mark": ("{}".encode("utf-16-be"), "not JSON"),
    "Latin-1": (b'{"a": "\xe9"}', "not UTF-8: byte 7 is 0xe9"),
    "a key twice": (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
    "a key twice, deep inside": (b'[{"x": {"a": 1, "a": 1}}]', "twice"),
    "NaN": (b'{"a": NaN}', "NaN is no JSON number"),
    "Infinity": (b'{"a": -Infinity}', "-Infinity is no JSON number"),
    "a number beyond floats": (b"1e400", "too large"),
    "a number of 10,000 digits": (b"9" * 10_000, "not accepted"),
    "a deep list": (b"[" * 100_000, "nested too deeply"),
    "a deep object": (b'{"a":' * 100_000, "nested too deeply"),
    "a deep value that is closed": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "half a surrogate pair": (rb'{"a": "\ud800"}', "unpaired surrogate"),
    "nothing": (b"", "not JSON"),
    "two values": (b"{} {}", "Extra data at column 4"),
    "a comma too many": (b'{\n"a": 1,\n}', "at line 3"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_strict_json_is_refused_with_the_reason(what: str) -> None:
    data, reason = REFUSED[what]
    with pytest.raises(AdapterConfigInvalid, match=reason) as caught:
        parse(data, what="x.json", refusal=AdapterConfigInvalid)
    assert str(caught.value).startswith("x.json ")


def test_the_caller_chooses_the_error() -> None:
    with pytest.raises(InvalidDataset) as caught:
        parse(b"{", what="line 7", refusal=partial(InvalidDataset, line=7))
    assert caught.value.line == 7


@pytest.mark.parametrize("data", [b"[]", b"1", b'"{}"', b"null", b"true"])
def test_only_an_object_is_an_object(data: bytes) -> None:
    with pytest.raises(AdapterConfigInvalid, match="must hold a JSON object, got"):
        parse_object(data, what="x.json", refusal=AdapterConfigInvalid)


def test_values_come_back_as_json_says() -> None:
    data = '{"a": [1, 2.5, true, null, "é\\ud83d\\ude00"]}'.encode()
    assert parse_object(data, what="x", refusal=AdapterConfigInvalid) == {"a": [1, 2.5, True, None, "é😀"]}


@pytest.mark.parametrize(
    ("value", "found"),
    [({"k": 0}, True), ([{"a": [{"k": 0}]}], True), ({"a": "k"}, False), ("k", False), (["k"], False)],
)
def test_a_key_is_found_wherever_it_is(value: Any, found: bool) -> None:
    assert has_key(value, "k") is found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"),
        (8.5, "8.5"),
        ("a\n\x1b[31m", r"'a\n\x1b[31m'"),
        ("é", r"'\xe9'"),
        ("x" * 500, "(502 characters)"),
    ],
)
def test_values_in_messages_are_short_and_cannot_write_on_the_terminal(value: Any, text: str) -> None:
    assert text in shown(value)
    assert len(shown(value)) < 120


def test_a_file_is_read_through_a_link_as_those_of_a_hub_are(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "x.json").symlink_to("blob")
    assert read_object(tmp_path / "x.json", refusal=AdapterConfigInvalid) == {"a": 1}


@pytest.mark.parametrize(("data", "reason"), [(None, "No such file"), (b"[]", "it must hold a JSON object")])
def test_a_file_that_holds_no_object_is_named(tmp_path: Path, data: bytes | None, reason: str) -> None:
    if data is not None:
        (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(AdapterConfigInvalid, match=rf"cannot read .*x\.json: .*{reason}"):
        read_object(tmp_path / "x.json", refusal=AdapterConfigInvalid)
