"""Texts that end an answer, whole and in pieces."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.pico import pico_tokenizer
from xlora_engine.decoding.stop_texts import StopTexts, StreamedText, before_stop


def test_an_answer_ends_at_the_first_stop_text() -> None:
    assert before_stop("one two three", ["three", "two"]) == ("one ", True)
    assert before_stop("one two three", ["four"]) == ("one two three", False)
    assert before_stop("one", []) == ("one", False)


def test_a_sequence_ends_where_its_answer_holds_a_stop_text_and_not_in_the_prompt() -> None:
    tokenizer = pico_tokenizer()
    prompt, answer = (tokenizer(text)["input_ids"] for text in ("stop\n", "über stop, so"))
    stops = StopTexts(tokenizer, ["stop,", "\nü"], prompt_length=len(prompt))
    ends = [bool(stops(torch.tensor([prompt + answer[:count]]), None)[0]) for count in range(len(answer) + 1)]
    assert ends.index(True) == len(tokenizer("über stop,")["input_ids"])
    both = stops(torch.tensor([prompt + answer[:11], prompt + answer[1:12]]), None)
    assert both.tolist() == [True, True] or both.tolist() == [ends[11], True]


STOPS = st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3)


@given(text=st.text("abc\n", max_size=30), cuts=st.lists(st.integers(0, 30), max_size=6), stops=STOPS)
def test_pieces_together_are_the_text_before_the_stop(text: str, cuts: list[int], stops: list[str]) -> None:
    given: list[str] = []
    streamed = StreamedText(given.append, stops)
    for start, end in pairwise([0, *sorted(cuts), 30]):
        streamed.add(text[start:end])
    streamed.end()
    assert "".join(given) == before_stop(text, stops)[0]


def test_a_piece_is_passed_on_at_once_unless_it_may_begin_a_stop_text() -> None:
    given: list[str] = []
    streamed = StreamedText(given.append, ["###"])
    passed_on = []
    for piece in ("a #", "# b", "##", "#", "more"):
        streamed.add(piece)
        passed_on.append("".join(given))
    assert passed_on == ["a ", "a ## b", "a ## b", "a ## b", "a ## b"]


@pytest.mark.parametrize("stops", [[], ["#"]])
def test_the_next_answer_is_streamed_anew(stops: list[str]) -> None:
    given: list[str] = []
    streamed = StreamedText(given.append, stops)
    streamed.add("one#")
    streamed.end()
    streamed.add("two")
    streamed.end()
    assert "".join(given) == ("onetwo" if stops else "one#two")
