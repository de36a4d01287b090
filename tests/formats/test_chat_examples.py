"""Chat JSONL: what is read of an example, and what is refused, by file and line, for whoever reads it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.chat_examples import LINE_LIMIT_BYTES, ChatExample, read_chat_jsonl
from formats.chat_messages import for_template, text_of

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is iron?"}
ASSISTANT = {"role": "assistant", "content": "A metal."}
TOOL = {"role": "tool", "name": "look_up", "content": "Fe, 26"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": {"of": "iron"}}}],
}


def line(*messages: Any, **fields: Any) -> bytes:
    return json.dumps({"messages": list(messages), **fields}).encode()


GOOD = line(USER, ASSISTANT)


def written(path: Path, *lines: bytes, end: bytes = b"\n") -> Path:
    path.write_bytes(b"\n".join(lines) + end)
    return path


def examples(path: Path) -> list[ChatExample]:
    with path.open("rb") as source:
        return list(read_chat_jsonl(source, str(path), InvalidExample))


class InvalidExample(Exception):
    """What a reader of its own raises."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


def test_an_example_is_its_messages_its_domain_and_its_origin(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.jsonl",
        line(USER, ASSISTANT, domain="physics"),
        line(SYSTEM, USER, ASSISTANT, USER, ASSISTANT, domain="bio", source="a book"),
        GOOD,
    )
    first, second, third = examples(path)
    assert first.messages == (("user", "What is iron?"), ("assistant", "A metal."))
    assert [role for role, _ in second.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [example.domain for example in (first, second, third)] == ["physics", "bio", None]
    assert [example.origin for example in (first, third)] == [f"{path}, line 1", f"{path}, line 3"]


def test_calls_of_tools_and_what_they_answered_are_kept_whole(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
    (example,) = examples(written(tmp_path / "x", line(USER, CALL, TOOL, ASSISTANT, tools=tools)))
    assert [for_template(message) for message in example.messages] == [USER, CALL, TOOL, ASSISTANT]
    assert json.loads(example.tools or "") == tools
    assert text_of(example.messages[1][1]) == ""


def test_a_text_is_an_example_without_messages(tmp_path: Path) -> None:
    (example,) = examples(written(tmp_path / "x", b'{"text": "Iron rusts.", "domain": "bio"}'))
    assert (example.text, example.messages, example.domain) == ("Iron rusts.", (), "bio")


@pytest.mark.parametrize(
    "data",
    [
        line(SYSTEM, USER, ASSISTANT, domain="bio"),
        line(USER, CALL, TOOL, ASSISTANT, tools=[{"a": {"z": "é", "b": 1}}]),
        b'{"text":"x","domain":"bio"}',
    ],
)
def test_an_example_reads_as_it_was_written(tmp_path: Path, data: bytes) -> None:
    (first,) = examples(written(tmp_path / "x", data))
    (again,) = examples(written(tmp_path / "x", first.as_line(), end=b""))
    assert again == first


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_last_line_may_end_or_not(tmp_path: Path, end: bytes) -> None:
    assert len(examples(written(tmp_path / "x", GOOD, GOOD, end=end))) == 2


def test_lines_may_end_as_on_windows_and_a_lone_return_ends_none(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(GOOD + b"\r\n" + GOOD + b"\r\n")
    assert [example.line for example in examples(tmp_path / "x")] == [1, 2]
    (tmp_path / "x").write_bytes(GOOD + b"\r" + GOOD)
    with pytest.raises(InvalidExample, match="line 1 is not JSON: Extra data"):
        examples(tmp_path / "x")


def test_a_line_longer_than_what_is_read_at_once_is_whole(tmp_path: Path) -> None:
    answer = "word " * 700_000
    path = written(tmp_path / "x", GOOD, line(USER, ASSISTANT | {"content": answer}), GOOD)
    assert examples(path)[1].messages[1] == ("assistant", answer)


def test_text_of_every_script_is_text_and_its_separators_end_no_line(tmp_path: Path) -> None:
    text = "Ε=mc²\u2028a\x85😀"
    row = {"messages": [{"role": "user", "content": text}, ASSISTANT]}
    (example,) = examples(written(tmp_path / "x", json.dumps(row, ensure_ascii=False).encode()))
    assert example.messages[0] == ("user", text)


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
    "a deep line": (b"[" * 100_000, "nested too deeply"),
    "a key twice": (b'{"messages": [], "messages": []}', "twice"),
    "no messages": (b'{"prompt": "x"}', "list of messages under 'messages', got None"),
    "messages that are a text": (b'{"messages": "x"}', "got 'x'"),
    "no message": (line(), r"got '\[\]'|got \[\]"),
    "a message that is a text": (line("hello", ASSISTANT), "message 1: expected an object"),
    "a message without content": (line({"role": "user"}, ASSISTANT), "message 1: expected a text"),
    "a message with no tool call": (line(USER, ASSISTANT | {"tool_calls": []}), "message 2: expected a l"),
    "a tool call of another form": (
        line(USER, ASSISTANT | {"tool_calls": [{"name": "f"}]}),
        "message 2: exp",
    ),
    "a message with a name": (line(USER | {"name": "x"}, ASSISTANT), "role 'user' only 'content', 'role'"),
    "a tool's answer to no call": (line(USER, ASSISTANT, TOOL, ASSISTANT), "expected role 'user', got 'to"),
    "a call without its answer": (line(USER, CALL, USER, ASSISTANT), "message 3: expected role 'tool', got"),
    "a text beside a label": (b'{"text": "x", "label": 1}', "list of messages under 'messages', got None"),
    "a blank text": (b'{"text": " "}', "expected a text under 'text', not blank"),
    "tools that are a text": (line(USER, ASSISTANT, tools="f"), "list of functions, as JSON Schema, under"),
    "content that is a list": (line(USER | {"content": [{}]}, ASSISTANT), "message 1: expected a text"),
    "content that is null": (line(USER, ASSISTANT | {"content": None}), "message 2: expected a text"),
    "an unknown role": (line(USER | {"role": "human"}, ASSISTANT), "message 1: expected a role of 'system'"),
    "a role that is a list": (line(USER | {"role": ["user"]}, ASSISTANT), "message 1: expected a role of"),
    "a tool first": (line(TOOL, USER, ASSISTANT), "message 1: expected role 'system' or 'user' or 'assis"),
    "an answer alone": (line(ASSISTANT), "expected a question: role 'user'"),
    "a question twice": (line(USER, USER, ASSISTANT), "message 2: expected role 'assistant', got 'user'"),
    "two system messages": (line(SYSTEM, SYSTEM, USER, ASSISTANT), "message 2: expected role 'user' or 'ass"),
    "a late system message": (line(USER, SYSTEM, ASSISTANT), "message 2: expected role 'assistant', got"),
    "no answer": (line(SYSTEM, USER), "message 2: expected an answer"),
    "only a system message": (line(SYSTEM), "expected a question"),
    "an empty answer": (line(USER, ASSISTANT | {"content": ""}), "message 2: expected a text .* not blank"),
    "a blank answer": (line(USER, ASSISTANT | {"content": " \n"}), "message 2: expected a text .* not blank"),
    "an empty question": (line(USER | {"content": ""}, ASSISTANT), "message 1: expected a text .* not blank"),
    "a blank system message": (line(SYSTEM | {"content": " "}, USER, ASSISTANT), "message 1: expected a"),
    "a domain that is a number": (line(USER, ASSISTANT, domain=1), "characters as 'domain', got 1"),
    "an empty domain": (line(USER, ASSISTANT, domain=""), "characters as 'domain'"),
    "a domain of two lines": (line(USER, ASSISTANT, domain="a\nb"), "characters as 'domain'"),
    "a domain without end": (line(USER, ASSISTANT, domain="x" * 129), "characters as 'domain'"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, what: str) -> None:
    data, reason = BAD[what]
    with pytest.raises(InvalidExample, match=reason) as caught:
        examples(written(tmp_path / "x.jsonl", GOOD, data, GOOD))
    assert caught.value.line == 2
    assert str(caught.value).startswith(f"{tmp_path / 'x.jsonl'}, line 2")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("data", [b"\n", b"\n\n"])
def test_blank_lines_are_no_examples(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InvalidExample, match="line 1: expected a JSON object, got a blank line"):
        examples(tmp_path / "x")


def test_two_blank_lines_at_the_end_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(InvalidExample, match="line 2: expected a JSON object, got a blank line"):
        examples(written(tmp_path / "x", GOOD, end=b"\n\n"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(InvalidExample, match="is empty") as caught:
        examples(tmp_path / "x")
    assert caught.value.line is None


def test_a_line_without_end_is_refused_before_it_is_held_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(GOOD + b"\n" + b" " * (LINE_LIMIT_BYTES + 5_000_000))
    with pytest.raises(InvalidExample, match="line 2: expected at most 8,388,608 bytes") as caught:
        examples(path)
    assert caught.value.line == 2


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
def test_any_line_is_taken_or_refused_and_nothing_worse(row: Any) -> None:
    try:
        read = list(read_chat_jsonl(io.BytesIO(GOOD + b"\n" + json.dumps(row).encode()), "x", InvalidExample))
    except InvalidExample as refusal:
        found = refusal.line
    else:
        found = read[-1].line
    assert found == 2
