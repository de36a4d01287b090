"""Tokens of routed examples: which they are, and what is said of them part by part."""

from dataclasses import replace

import pytest
import torch

from xlora_engine.head_training.expert_labels import SEVERAL
from xlora_engine.head_training.hidden_states import HiddenStates
from xlora_engine.head_training.routed_examples import RoutedExamples

LENGTHS = (5, 3, 7, 4)


@pytest.fixture
def examples() -> RoutedExamples:
    """Example i holds i in its first dimension, and its own positions in the second."""
    starts = torch.tensor([0, *LENGTHS]).cumsum(0)
    values = torch.tensor([[example, at] for example, length in enumerate(LENGTHS) for at in range(length)])
    hidden = HiddenStates(values=values.bfloat16(), starts=starts)
    return RoutedExamples(hidden=hidden, experts=torch.tensor([2, 0, 1, 0]), train=(0, 1, 2), held_out=(3,))


def test_tokens_are_those_after_the_shared_prefix_in_order(examples: RoutedExamples) -> None:
    tokens = replace(examples, shared=2).tokens((2, 0))
    assert tokens.hidden().tolist() == [[2, 2], [2, 3], [2, 4], [2, 5], [2, 6], [0, 2], [0, 3], [0, 4]]
    assert tokens.experts.tolist() == [1] * 5 + [2] * 3
    assert tokens.hidden(torch.tensor([7, 0])).tolist() == [[0, 4], [2, 2]]


def test_one_example_in_n_includes_the_shared_prefix(examples: RoutedExamples) -> None:
    tokens = replace(examples, shared=3).tokens((0, 1, 3, 2), with_prefix=2)
    assert tokens.hidden()[:, 0].tolist() == [0] * 5 + [3] * 4 + [2] * 4


def test_nothing_is_copied_before_it_is_asked_for(examples: RoutedExamples) -> None:
    assert examples.tokens(examples.train).values.data_ptr() == examples.hidden.values.data_ptr()


@pytest.mark.parametrize("at_once", [1, 4, 1000])
def test_the_spread_is_that_of_all_at_once(examples: RoutedExamples, at_once: int) -> None:
    tokens = examples.tokens((0, 1, 2, 3))
    whole = tokens.hidden().float().std(dim=0, correction=0)
    torch.testing.assert_close(tokens.spread(at_once), whole, rtol=1e-6, atol=0)
    assert sum(map(len, tokens.parts(at_once))) == sum(LENGTHS)


def test_tokens_of_which_nothing_is_known_are_left_out_and_labels_are_whole_shares(
    examples: RoutedExamples,
) -> None:
    shares = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0.5, 0.5, 0], [0, 0, 1]])
    mixed = replace(examples, experts=torch.tensor([2, 0, 1, SEVERAL]), shares={3: shares}, shared=1)
    tokens = mixed.tokens((1, 3))
    assert tokens.hidden().tolist() == [[1, 1], [1, 2], [3, 2], [3, 3]]
    assert tokens.experts.tolist() == [[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]
    assert mixed.labelled((0, 3, 1)) == (0, 1)
