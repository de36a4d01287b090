"""Every way to write an example down gives the conversation it means; what is none is refused by that."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from formats.chat_messages import for_template
from registry.errors import InvalidDataset, InvalidField
from registry.example_shapes.column_mapping import parsed_mapping
from registry.example_shapes.example_shapes import SHAPES
from registry.example_shapes.refused_examples import REFUSED_EXAMPLES
from registry.registration.datasets import Reading
from tests.registry.written_files import checked, delimited, json_lines, parquet_table

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
S = {"role": "system", "content": "s"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"x": 2}}}
CALLING: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [CALL]}
CALLED: list[dict[str, Any]] = [Q, CALLING, {"role": "tool", "content": "4"}, A]
FUNCTION = {"name": "add", "parameters": {}}

#: What was written -> the messages it means.
WRITTEN: dict[str, tuple[Mapping[str, Any], list[dict[str, Any]]]] = {
    "messages under another name": ({"conversations": [Q, A]}, [Q, A]),
    "a developer": ({"messages": [{"role": "developer", "content": "s"}, Q, A]}, [S, Q, A]),
    "a system beside": ({"messages": [Q, A], "system": "s"}, [S, Q, A]),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, A]}, [Q, A]),
    "nulls": ({"messages": [Q | {"name": None, "tool_calls": None}, A]}, [Q, A]),
    "a weight of one": ({"messages": [Q, A | {"weight": 1}]}, [Q, A]),
    "arguments as a text": (
        {"messages": [Q, CALLED[1] | {"tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": '{"x": 2}'}}]}, *CALLED[2:]]},
        CALLED,
    ),
    "a function call of before": (
        {"messages": [Q, {"role": "assistant", "content": None, "function_call": {
            "name": "add", "arguments": '{"x": 2}'}}, {"role": "function", "content": "4"}, A]},
        CALLED,
    ),
    "a bare call": (
        {"messages": [Q, {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {"x": 2}}]},
                      CALLED[2], A]},
        CALLED,
    ),
    "a reasoning": (
        {"messages": [Q, A | {"thinking": "hm"}]}, [Q, {"role": "assistant", "content": "a",
                                                       "reasoning_content": "hm"}],
    ),
    "an answer first": ({"messages": [A, Q, A]}, [A, Q, A]),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [Q, A]),
    "ShareGPT with calls": (
        {"system": "s", "tools": json.dumps([FUNCTION]), "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"x": 2}}'},
            {"from": "observation", "value": "4"}, {"from": "gpt", "value": "a"}]},
        [S, *CALLED],
    ),
    "Alpaca": ({"instruction": "q", "input": "", "output": "a"}, [Q, A]),
    "Alpaca with an input": (
        {"instruction": "q", "input": "x", "output": "a"},
        [Q | {"content": "q\n\nx"}, A],
    ),
    "Alpaca with turns": (
        {"instruction": "q", "input": "", "output": "a", "system": "s", "history": [["q", "a"]]},
        [S, Q, A, Q, A],
    ),
    "Dolly": ({"instruction": "q", "context": "", "response": "a", "category": "qa"}, [Q, A]),
    "a prompt": ({"prompt": "q", "completion": "a"}, [Q, A]),
    "a prompt of messages": ({"prompt": [S, Q], "completion": [A]}, [S, Q, A]),
    "a question": ({"Question": "q", "Answer": "a", "id": 3}, [Q, A]),
    "choices by number": ({"question": "q", "choices": ["b", "a"], "answer": 1}, [Q, A]),
    "choices by letter": ({"question": "q", "options": ["a", "b"], "answer": "A"}, [Q, A]),
    "choices with labels": (
        {"question": "q", "choices": {"text": ["b", "a"], "label": ["1", "2"]}, "answerKey": "2"}, [Q, A],
    ),
    "a problem": ({"problem": "q", "solution": "a"}, [Q, A]),
    "a number": ({"question": "q", "answer": 4}, [Q, A | {"content": "4"}]),
}  # fmt: skip


@pytest.mark.parametrize("what", WRITTEN)
def test_an_example_is_the_conversation_it_means(tmp_path: Path, what: str) -> None:
    row, messages = WRITTEN[what]
    (tmp_path / "x.jsonl").write_bytes(json_lines([row]))
    (example,) = checked(tmp_path / "x.jsonl")[1]
    assert [for_template(message) for message in example.messages] == messages
    assert json.loads(example.tools or "null") == ([FUNCTION] if "tools" in row else None)


@pytest.mark.parametrize("what", ["ShareGPT with calls", "a reasoning", "a prompt of messages", "Alpaca"])
def test_columns_of_lists_and_structures_are_read_from_parquet(tmp_path: Path, what: str) -> None:
    row, messages = WRITTEN[what]
    (tmp_path / "x.parquet").write_bytes(parquet_table([row]))
    (example,) = checked(tmp_path / "x.parquet")[1]
    assert [for_template(message) for message in example.messages] == messages


def test_messages_in_a_cell_of_a_table_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(delimited([{"messages": json.dumps([Q, A]), "domain": ""}]))
    (example,) = checked(tmp_path / "x.csv")[1]
    assert ([*map(for_template, example.messages)], example.domain) == ([Q, A], None)


def test_what_was_not_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(
        json_lines(
            [{"messages": [Q | {"language": "en"}, A], "id": 3, "source": "web"}, {"messages": [Q, A]}]
        )
    )
    (read,) = checked(tmp_path / "x.jsonl")[0].reading["files"]
    assert read["taken_for"] == (
        "JSONL of conversations (role, content); not read: id, messages.language, source"
    )


NO_EXAMPLES: dict[str, tuple[Mapping[str, Any], str]] = {
    "preferences": (
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        "preference pairs, which train no adapter",
    ),
    "whole preferences": ({"chosen": [Q, A], "rejected": [Q, A]}, "--map messages=chosen"),
    "judged answers": ({"prompt": "q", "completion": "a", "label": True}, "answers judged good or bad"),
    "judged steps": ({"prompt": "q", "completions": ["a"], "labels": [True]}, "steps judged one by one"),
    "tokens": ({"input_ids": [1, 2], "labels": [1, 2]}, "tokens of some tokenizer"),
    "pictures": ({"messages": [Q, A], "images": ["a.png"]}, "examples with images"),
    "choices": ({"question": "q", "choices": ["a", "b"], "gold_scores": {}}, "multiple-choice questions"),
    "passages": ({"context": "c", "question": "q", "answers": {"text": ["a"]}}, r"\(SQuAD\)"),
    "labels": (
        {"text": "t", "label": 1},
        "texts with labels, for a classifier; .*--map prompt=text,completi",
    ),
    "sentences": ({"anchor": "a", "positive": "b"}, "pairs of sentences"),
    "a notebook": ({"cells": [], "nbformat": 4}, "a notebook"),
    "columns by number": ({"prompt": {"0": "q"}, "completion": {"0": "a"}}, "columns, not examples"),
    "columns as lists": ({"prompt": ["q"], "completion": ["a"]}, "columns, not examples: .*orient='records'"),
    "other names": (
        {"frage": "q", "antwort": "a"},
        "examples with 'frage', 'antwort', which .*--map prompt=COL",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_EXAMPLES)
def test_what_trains_no_adapter_is_refused_by_what_it_is(tmp_path: Path, what: str) -> None:
    row, said = NO_EXAMPLES[what]
    (tmp_path / "x.jsonl").write_bytes(json_lines([row, row]))
    with pytest.raises(InvalidDataset, match=rf"x\.jsonl is JSONL of .*{said}") as caught:
        checked(tmp_path / "x.jsonl")
    assert caught.value.line == 1


def test_every_row_of_the_tables_is_tried() -> None:
    refused = {
        next((row.what for row in REFUSED_EXAMPLES if row.recognises(one)), None)
        for one, _ in NO_EXAMPLES.values()
    }
    assert refused == {row.what for row in REFUSED_EXAMPLES} | {None}
    assert {row.name for row in SHAPES} == {"sharegpt", "chat", "alpaca", "choice", "prompt", "text"}


BAD: dict[str, tuple[Mapping[str, Any], str]] = {
    "an image part": (
        {"messages": [Q | {"content": [{"type": "image_url"}]}, A]},
        "text; images and sound .*'image_url'",
    ),
    "a weight of none": ({"messages": [Q, A | {"weight": 0}]}, "message 2: expected no 'weight'"),
    "no arguments": (
        {"messages": [Q, A | {"tool_calls": ["f"]}]},
        "message 2: expected a call of a function",
    ),
    "bad arguments": (
        {"messages": [Q, A | {"tool_calls": [{"name": "f", "arguments": "x"}]}]},
        "expected an object as 'arg",
    ),
    "no answer": ({"prompt": "q", "completion": " "}, "expected a text as 'completion', not blank, got ' '"),
    "no choice": ({"question": "q", "choices": ["a", "b"], "answer": 2}, "2 choices as 'answer', got 2"),
    "no history": ({"instruction": "q", "output": "a", "history": ["x"]}, "pairs of question and answer"),
    "messages that are none": ({"messages": "x"}, "a list of messages under 'messages', got 'x'"),
    "tools that are prose": ({"messages": [Q, A], "tools": "add"}, "list of functions, as JSON Schema"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_example_is_named_by_its_line_and_message(tmp_path: Path, what: str) -> None:
    row, said = BAD[what]
    (tmp_path / "x.jsonl").write_bytes(json_lines([{"messages": [Q, A]}, row]))
    with pytest.raises(InvalidDataset, match=rf"x\.jsonl, line 2: .*{said}"):
        checked(tmp_path / "x.jsonl")


def test_columns_are_mapped_and_no_others_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(
        delimited([{"frage": "q", "antwort": "a", "thema": "bio", "prompt": "z"}])
    )
    reading = Reading(mapping=parsed_mapping("prompt=frage, completion=antwort,domain=thema"))
    manifest, (example,), _ = checked(tmp_path / "x.csv", reading)
    assert ([*map(for_template, example.messages)], example.domain) == ([Q, A], "bio")
    assert manifest.reading["map"] == {"prompt": "frage", "completion": "antwort", "domain": "thema"}


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(delimited([{"frage": "q", "antwort": "a"}]))
    reading = Reading(mapping=parsed_mapping("prompt=frage,completion=antworte"))
    with pytest.raises(InvalidDataset, match=r"no column 'antworte' among .*did you mean antwort"):
        checked(tmp_path / "x.csv", reading)


@pytest.mark.parametrize(
    "given", ["prompt", "prompt=", "prompt=a", "answer=a", "prompt=a,prompt=b", "text=a,messages=b"]
)
def test_a_mapping_that_makes_no_example_is_refused(given: str) -> None:
    with pytest.raises(InvalidField, match="map must be"):
        parsed_mapping(given)
