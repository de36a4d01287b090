"""Losses of answers token by token, under one expert alone or the base."""

import pytest
import torch
import torch.nn.functional as F

from tests.xlora_engine.conftest import Mixture
from tests.xlora_engine.examples_with_shared_prefix import OWN, examples_with_shared_prefix
from xlora_engine.head_training.expert_losses import answer_losses
from xlora_engine.model import XLoraModel


def whole(model: XLoraModel, token_ids: tuple[int, ...], answer: int) -> torch.Tensor:
    """The same by one forward without cache or padding."""
    logits = model(input_ids=torch.tensor([token_ids])).logits[0, -answer - 1 : -1]
    return F.cross_entropy(logits, torch.tensor(token_ids[-answer:]), reduction="none")


@pytest.mark.parametrize("tokens_per_batch", [8, 1024])
def test_they_are_those_of_whole_sequences_whatever_shares_a_batch(
    mixture: Mixture, tokens_per_batch: int
) -> None:
    model = mixture(spread=1.0)
    examples, _ = examples_with_shared_prefix(model)
    counted: list[int] = []
    for scalings in (
        None,
        model.constant_scalings((1.0, 0.0, 0.0)),
        model.constant_scalings((0.0, 0.0, 1.0)),
    ):
        with model.fixed_scalings(scalings), torch.no_grad():
            found = answer_losses(
                model, examples, pad_id=0, tokens_per_batch=tokens_per_batch, on_examples=counted.append
            )
            for losses, example, (_, answer) in zip(found, examples, OWN, strict=True):
                torch.testing.assert_close(losses, whole(model, example.token_ids, answer))
    assert sum(counted) == 3 * len(examples)
