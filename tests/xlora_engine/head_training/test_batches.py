"""Which examples each step takes: every expert in turn, those of several experts their share."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice, pairwise

import pytest
import torch

from xlora_engine.head_training.batches import batches, looked_at
from xlora_engine.head_training.expert_labels import SEVERAL
from xlora_engine.head_training.hidden_states import HiddenStates
from xlora_engine.head_training.horizon import Horizon
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.head_training.settings import MixtureTraining


def examples_of(experts: Sequence[int], *, held_out: Sequence[int] = ()) -> RoutedExamples:
    hidden = HiddenStates(values=torch.zeros(len(experts), 1), starts=torch.arange(len(experts) + 1))
    train = tuple(index for index in range(len(experts)) if index not in held_out)
    return RoutedExamples(hidden=hidden, experts=torch.tensor(experts), train=train, held_out=tuple(held_out))


def experts_of(batch: Sequence[int], examples: RoutedExamples) -> Counter[int]:
    return Counter(int(examples.experts[index]) for index in batch)


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        ((0, 1, 2), {0: 4, 1: 4, 2: 4}),
        ((0, 1, 2, SEVERAL), {0: 1, 1: 1, 2: 1, SEVERAL: 9}),
        ((SEVERAL,), {SEVERAL: 12}),
    ],
)
def test_each_group_takes_its_share_of_every_batch(
    experts: tuple[int, ...], expected: dict[int, int]
) -> None:
    examples = examples_of([expert for expert in experts for _ in range(5)])
    for batch in islice(batches(examples, MixtureTraining()), 4):
        assert experts_of(batch, examples) == expected


def test_no_example_comes_again_before_all_of_its_group_have_come() -> None:
    examples = examples_of([0] * 7 + [SEVERAL] * 18)
    taken = [index for batch in islice(batches(examples, MixtureTraining(seed=3)), 2) for index in batch]
    assert sorted(index for index in taken if index >= 7) == list(range(7, 25))
    other = [index for batch in islice(batches(examples, MixtureTraining(seed=4)), 2) for index in batch]
    assert taken != other


def test_what_is_looked_at_is_as_much_of_every_group() -> None:
    examples = examples_of([0] * 200 + [1] * 10 + [SEVERAL] * 200, held_out=range(410))
    assert experts_of(looked_at(examples), examples) == {0: 32, 1: 10, SEVERAL: 32}


def test_the_learning_rate_rises_and_then_falls_to_nothing() -> None:
    horizon = Horizon(settings=MixtureTraining(steps=40, warmup_steps=4, learning_rate=1.0))
    rates = [horizon.learning_rate(steps) for steps in range(41)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.02)
    assert rates[20] == pytest.approx(0.5)
    assert rates[40] == pytest.approx(0)
    assert all(one > next_one for one, next_one in pairwise(rates[3:]))
