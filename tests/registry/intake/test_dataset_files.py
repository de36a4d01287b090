"""Chat JSONL: good files are counted and digested, a bad line is refused by its number."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidDataset
from registry.intake.dataset_files import LINE_LIMIT_BYTES, check_row, parse_file_name, read_chat_jsonl

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is iron?"}
ASSISTANT = {"role": "assistant", "content": "A metal."}


def line(*messages: Any, **fields: Any) -> bytes:
    return json.dumps({"messages": list(messages), **fields}).encode()


GOOD = line(USER, ASSISTANT)


def written(path: Path, *lines: bytes, end: bytes = b"\n") -> Path:
    path.write_bytes(b"\n".join(lines) + end)
    return path


def test_a_good_file_is_counted_and_digested(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.jsonl",
        line(USER, ASSISTANT, domain="physics"),
        line(SYSTEM, USER, ASSISTANT, USER, ASSISTANT, domain="bio", source="a book"),
        GOOD,
    )
    manifest = read_chat_jsonl(path)
    assert (manifest.rows, manifest.domains, manifest.warnings) == (3, ("bio", "physics"), ())
    assert manifest.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert manifest.size_bytes == path.stat().st_size


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_last_line_may_end_or_not(tmp_path: Path, end: bytes) -> None:
    assert read_chat_jsonl(written(tmp_path / "x", GOOD, GOOD, end=end)).rows == 2


def test_a_row_longer_than_what_is_read_at_once_is_whole(tmp_path: Path) -> None:
    long = line(USER, {"role": "assistant", "content": "word " * 700_000})
    path = written(tmp_path / "x", GOOD, long, GOOD)
    assert read_chat_jsonl(path).digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_text_of_every_script_is_text(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Ε=mc²\u2028😀"}, ASSISTANT]}
    path = written(tmp_path / "x", json.dumps(row, ensure_ascii=False).encode())
    assert read_chat_jsonl(path).rows == 1


def test_rows_that_repeat_are_warned_of(tmp_path: Path) -> None:
    path = written(tmp_path / "x", GOOD, line(SYSTEM, USER, ASSISTANT), GOOD, GOOD)
    assert read_chat_jsonl(path).warnings == ("2 of 4 rows repeat an earlier one",)


BAD: dict[str, tuple[bytes, str]] = {
    "a blank line": (b"", "got a blank line"),
    "spaces": (b"  \t", "got a blank line"),
    "no JSON": (b"{'messages': []}", "line 2 is not JSON: .* at column 2"),
    "cut off": (GOOD[:-2], "line 2 is not JSON: .* at column"),
    "a list": (b"[]", "must hold a JSON object, got"),
    "two objects": (GOOD + GOOD, "Extra data"),
    "a BOM": (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    "UTF-16": ("{}".encode("utf-16"), "byte order mark"),
    "Latin-1": (b'{"messages": "\xe9"}', "not UTF-8"),
    "a surrogate": (rb'{"messages": "\udfff"}', "unpaired surrogate"),
    "NaN": (b'{"messages": [], "x": NaN}', "NaN"),
    "a deep row": (b"[" * 100_000, "nested too deeply"),
    "a key twice": (b'{"messages": [], "messages": []}', "twice"),
    "no messages": (b'{"prompt": "x"}', "list of messages under 'messages', got None"),
    "messages that are a text": (b'{"messages": "x"}', "got 'x'"),
    "no message": (line(), r"got '\[\]'|got \[\]"),
    "a message that is a text": (line("hello", ASSISTANT), "message 1: expected an object"),
    "a message without content": (line({"role": "user"}, ASSISTANT), "message 1: expected an object"),
    "a message with a tool call": (line(USER, ASSISTANT | {"tool_calls": []}), "message 2: expected an obj"),
    "content that is a list": (line(USER | {"content": [{}]}, ASSISTANT), "message 1: expected a text"),
    "content that is null": (line(USER, ASSISTANT | {"content": None}), "message 2: expected a text"),
    "an unknown role": (line(USER | {"role": "tool"}, ASSISTANT), "message 1: expected role 'user', got"),
    "a role that is a list": (line(USER | {"role": ["user"]}, ASSISTANT), "message 1: expected role 'user'"),
    "an answer first": (line(ASSISTANT, USER, ASSISTANT), "message 1: expected role 'user'"),
    "a question twice": (line(USER, USER, ASSISTANT), "message 2: expected role 'assistant', got 'user'"),
    "two system messages": (line(SYSTEM, SYSTEM, USER, ASSISTANT), "message 2: expected role 'user', got"),
    "a late system message": (line(USER, SYSTEM, ASSISTANT), "message 2: expected role 'assistant', got"),
    "no answer": (line(SYSTEM, USER), "message 2: expected an answer"),
    "only a system message": (line(SYSTEM), "message 1: expected an answer"),
    "an empty answer": (line(USER, ASSISTANT | {"content": ""}), "message 2: expected a text .* not blank"),
    "a blank answer": (line(USER, ASSISTANT | {"content": " \n"}), "message 2: expected a text .* not blank"),
    "an empty question": (line(USER | {"content": ""}, ASSISTANT), "message 1: expected a text .* not blank"),
    "a blank system message": (line(SYSTEM | {"content": " "}, USER, ASSISTANT), "message 1: expected a"),
    "a domain that is a number": (line(USER, ASSISTANT, domain=1), "short text as 'domain', got 1"),
    "an empty domain": (line(USER, ASSISTANT, domain=""), "short text as 'domain'"),
    "a domain of two lines": (line(USER, ASSISTANT, domain="a\nb"), "short text as 'domain'"),
    "a domain without end": (line(USER, ASSISTANT, domain="x" * 129), "short text as 'domain'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, what: str) -> None:
    data, reason = BAD[what]
    with pytest.raises(InvalidDataset, match=reason) as caught:
        read_chat_jsonl(written(tmp_path / "x.jsonl", GOOD, data, GOOD))
    assert caught.value.line == 2
    assert str(caught.value).startswith(f"{tmp_path / 'x.jsonl'}, line 2")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("data", [b"\n", b"\n\n"])
def test_blank_lines_are_no_rows(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InvalidDataset, match="line 1: expected a JSON object, got a blank line"):
        read_chat_jsonl(tmp_path / "x")


def test_two_blank_lines_at_the_end_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="line 2: expected a JSON object, got a blank line"):
        read_chat_jsonl(written(tmp_path / "x", GOOD, end=b"\n\n"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(InvalidDataset, match="is empty") as caught:
        read_chat_jsonl(tmp_path / "x")
    assert caught.value.line is None


def test_a_line_without_end_is_refused_before_it_is_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(GOOD + b"\n" + b" " * (LINE_LIMIT_BYTES + 5_000_000))
    with pytest.raises(InvalidDataset, match="line 2: expected at most 8,388,608 bytes") as caught:
        read_chat_jsonl(path)
    assert caught.value.line == 2


@pytest.mark.parametrize("kind", ["nothing", "link", "pipe", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.jsonl"
    if kind == "link":
        path.symlink_to(written(tmp_path / "real", GOOD))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(InvalidDataset, match=r"x\.jsonl"):
        read_chat_jsonl(path)


@settings(max_examples=60, deadline=None, database=None)
@given(
    row=st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.text(max_size=4)
        | st.sampled_from(["user", "assistant"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["messages", "role", "content", "domain"]), inner, max_size=4)
        ),
        max_leaves=10,
    )
)
def test_any_row_is_taken_or_refused_and_nothing_worse(row: Any) -> None:
    try:
        check_row(json.dumps(row).encode(), number=7)
    except InvalidDataset as refusal:
        found = refusal.line
    else:
        found = 7
    assert found == 7


@pytest.mark.parametrize(
    ("name", "domain", "split"),
    [
        ("bio.train.jsonl", "bio", "train"),
        ("bio.eval.jsonl", "bio", "eval"),
        ("materials-2.v1.train.jsonl", "materials-2.v1", "train"),
        ("bio.jsonl", None, None),
        ("train.jsonl", None, None),
        ("bio.test.jsonl", None, None),
        ("bio.train.json", None, None),
        (".train.jsonl", None, None),
        ("../bio.train.jsonl", None, None),
        ("bio.train.jsonl\n", None, None),
    ],
)
def test_a_file_s_name_may_tell_domain_and_split(name: str, domain: str | None, split: str | None) -> None:
    assert parse_file_name(name) == (domain, split)
