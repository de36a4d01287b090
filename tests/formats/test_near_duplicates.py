"""Held-out examples are found in training data, equal or nearly; what only follows their pattern is not."""

import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from formats.chat_examples import ChatExample
from formats.near_duplicates import NEAR, overlap

LONG = (
    "The mitochondrion is the part of a cell that makes most of the energy its other parts live on every day"
)


def asked(question: str, answer: str, line: int = 1) -> ChatExample:
    return ChatExample(messages=(("user", question), ("assistant", answer)), line=line)


def test_equal_examples_are_found_whatever_their_case_spaces_and_points() -> None:
    found = overlap(
        [asked("x", "y", 1), asked("What is  iron?", "a metal", 7)], [asked("what is iron", "A metal.", 3)]
    )
    ((shared),) = found.shared
    assert (shared.line, shared.training_line, shared.similarity) == (3, 7, 1)
    assert (found.equal, found.near) == (1, 0)


def test_a_word_changed_in_a_long_text_is_near_and_in_a_short_one_is_another() -> None:
    found = overlap([asked(LONG, "yes")], [asked(f"So: {LONG}", "yes"), asked("another question", "no")])
    assert [(one.line, one.similarity < 1) for one in found.shared] == [(1, True)]
    training = [asked(f"What is the symbol of {metal}?", "Fe", 1) for metal in ("iron", "gold")]
    assert overlap(training, [asked("What is the symbol of tin?", "Sn")]).shared == ()


def test_a_system_message_makes_no_difference_and_a_text_is_compared_as_it_is() -> None:
    told = ChatExample(messages=(("system", "Be brief."), *asked("a b c", "d").messages), line=4)
    assert overlap([told], [asked("a b c", "d")]).equal == 1
    assert (
        overlap([ChatExample(text="Iron rusts.", line=2)], [ChatExample(text="iron rusts", line=1)]).equal
        == 1
    )


def test_what_is_shared_is_said_by_lines() -> None:
    training = [asked(f"question {number}", "a", number) for number in range(1, 20)]
    said = overlap(training, training[2:15]).said("bio.train@1")
    assert said.startswith("13 of 13 examples stand in bio.train@1 (13 equal, 0 nearly)")
    assert said.endswith("lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, …")


def slow_overlap(training: list[str], held_out: list[str]) -> list[int]:
    """Every pair compared."""

    def parts(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.casefold())
        return {tuple(words[i : i + 3]) for i in range(max(len(words) - 2, 1))}

    def near(one: str, other: str) -> bool:
        a, b = parts(one), parts(other)
        return len(a & b) / len(a | b) >= NEAR

    return [line for line, text in enumerate(held_out, 1) if any(near(text, one) for one in training)]


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(0, 10_000))
def test_the_index_finds_what_comparing_every_pair_finds(seed: int) -> None:
    rng = random.Random(seed)
    base = [[rng.choice("abcdefgh") * 2 for _ in range(rng.randint(1, 14))] for _ in range(6)]

    def varied(words: list[str]) -> str:
        changed = list(words)
        if rng.random() < 0.7:
            changed[rng.randrange(len(changed))] = rng.choice("xyz")
        return " ".join(changed)

    training = [varied(rng.choice(base)) for _ in range(8)]
    held_out = [varied(rng.choice(base)) for _ in range(8)]
    found = overlap(
        [ChatExample(text=text, line=line) for line, text in enumerate(training, 1)],
        [ChatExample(text=text, line=line) for line, text in enumerate(held_out, 1)],
    )
    assert [one.line for one in found.shared] == slow_overlap(training, held_out)
