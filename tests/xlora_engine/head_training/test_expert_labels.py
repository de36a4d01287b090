"""Labels from the losses of experts: who wrote which token of an answer, if writers seldom change."""

from itertools import pairwise, product

import pytest
import torch

from xlora_engine.head_training.expert_labels import (
    SEVERAL,
    label_by_losses,
    mean_loss,
    posterior,
    token_shares,
)


def test_the_posterior_is_the_sum_over_all_ways_in_which_experts_can_take_turns() -> None:
    losses = torch.rand(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double) * 3
    change = 0.2
    expected = torch.zeros(4, 3, dtype=torch.double)
    for path in product(range(3), repeat=4):
        weight = torch.exp(-losses[range(4), path].sum())
        for one, next_one in pairwise(path):
            weight = weight * (1 - change if one == next_one else change / 2)
        expected[range(4), path] += weight
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(posterior(losses, switch_probability=change), expected)


def test_tokens_that_are_as_easy_for_all_belong_where_their_neighbours_do() -> None:
    easy, first, second = [0.1, 0.1, 0.1], [0.1, 8.0, 9.0], [9.0, 0.1, 8.0]
    label = label_by_losses(torch.tensor([first, easy, first, second, easy]))
    assert label.expert == SEVERAL
    assert label.shares.argmax(1).tolist() == [0, 0, 0, 1, 1]
    assert label.shares.amax(1).min() > 0.9
    assert label.loss == pytest.approx(0.5, abs=0.1)


def test_an_answer_that_one_expert_explains_belongs_to_it() -> None:
    label = label_by_losses(torch.tensor([[5.0, 0.1, 5.0], [0.1, 0.2, 5.0], [6.0, 0.1, 5.0]]))
    assert label.expert == 1
    assert mean_loss([label, label]) == pytest.approx(0.4 / 3, abs=0.01)


def test_one_expert_alone_explains_everything() -> None:
    label = label_by_losses(torch.full((3, 1), 7.0))
    assert label.expert == 0
    assert label.shares.tolist() == [[1.0]] * 3


def test_the_gate_of_a_token_is_told_what_the_next_one_needs_and_nothing_of_the_question() -> None:
    label = label_by_losses(torch.tensor([[0.0, 30.0], [30.0, 0.0]]))
    shares = token_shares(label, tokens=5)
    # Positions: two of the question, its last, which predicts the answer's first token, and the answer's two
    expected = torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1], [0, 1]])
    torch.testing.assert_close(shares, expected, atol=1e-6, rtol=0)
