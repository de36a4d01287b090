"""Words in common: F1 as SQuAD's own script has it, ROUGE-L of any writing."""

import pytest

from xlora_engine.metrics.texts import rouge_l, word_f1


@pytest.mark.parametrize(
    ("answer", "expected", "f1"),
    [
        # Values of the SQuAD 1.1 evaluation script.
        ("The cat sat.", "a cat sat", 1.0),
        ("the cat sat on the mat", "a dog sat", 1 / 3),
        ("Paris, France", "paris", 2 / 3),
        ("no", "yes", 0.0),
        ("yes yes", "yes", 2 / 3),
        ("", "", 1.0),
        ("", "word", 0.0),
    ],
)
def test_f1_is_that_of_squad(answer: str, expected: str, f1: float) -> None:
    assert word_f1(answer, expected) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin 2004, section 3
        ("the gunman kill police", "police kill the gunman", 0.5),
        ("Привет мир", "привет, мир!", 1.0),
        ("", "word", 0.0),
        ("?", "?", 0.0),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(
    answer: str, expected: str, score: float
) -> None:
    assert rouge_l(answer, expected) == pytest.approx(score)
