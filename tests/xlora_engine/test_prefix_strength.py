"""An adapter's strength varies on the tokens all rows begin with, and nowhere else."""

from pathlib import Path
from typing import cast

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from tests.pico import pico_llama
from xlora_engine.chat import EncodedRow, collate
from xlora_engine.lora_injection import injected, write_adapter
from xlora_engine.model import XLoraModel
from xlora_engine.prefix_strength import (
    StrengthContext,
    prefix_strengths,
    token_strengths,
)

ROWS = [
    EncodedRow(token_ids=(1, 2, 3, 9, 4, 5), prompt_length=5),
    EncodedRow(token_ids=(1, 2, 3, 8, 5), prompt_length=4),
    EncodedRow(token_ids=(1, 2, 3, 7, 6, 4, 5), prompt_length=6),
]


@pytest.mark.parametrize("turn", range(3))
def test_strengths_are_spread_over_a_batch_and_take_turns(turn: int) -> None:
    spread = prefix_strengths(3, least=0.25, turn=turn)
    assert sorted(spread) == [0.25, 0.5, 1.0]
    assert spread[-turn % 3] == 1.0


def test_a_batch_of_one_takes_turns() -> None:
    strengths = [prefix_strengths(1, least=0.125, turn=turn)[0] for turn in range(5)]
    assert strengths == pytest.approx([1, 0.5, 0.25, 0.125, 1])


def test_a_least_strength_of_one_changes_nothing() -> None:
    assert prefix_strengths(4, least=1.0, turn=1) == [1.0] * 4


def test_a_token_after_the_prefix_has_full_strength_and_so_has_padding() -> None:
    tokens = token_strengths(ROWS, [0.5, 0.75, 0.25], prefix_length=3)
    assert tokens.tolist() == [
        [1, 0.5, 0.5, 0.5, 1, 1, 1],
        [1, 1, 0.75, 0.75, 0.75, 1, 1],
        [0.25, 0.25, 0.25, 1, 1, 1, 1],
    ]


def test_the_weakened_adapter_is_the_mixture_with_these_scalings(tmp_path: Path) -> None:
    """PEFT's layers under strengths against the engine's own layers under the same scalings."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=False,
    )
    batch = collate(ROWS, pad_id=0)
    given = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }
    spread = token_strengths(ROWS, [0.75, 0.5, 0.25], prefix_length=3)
    with injected(pico_llama(), config, seed=0) as adapted, torch.no_grad():
        context = StrengthContext(adapted)
        with context.using(spread):
            weakened = adapted(**given).logits
        full = adapted(**given).logits
        write_adapter(adapted, tmp_path / "bio", base_name="pico")
    model = XLoraModel.from_adapters(pico_llama(), {"bio": tmp_path / "bio"})
    with torch.no_grad():
        expected = cast("Tensor", model.mixture_pass(spread[..., None, None], **given).logits)
        in_full = cast("Tensor", model.mixture_pass(model.constant_scalings([1.0]), **given).logits)
    seen = batch.attention_mask.bool()
    torch.testing.assert_close(weakened[seen], expected[seen], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(full[seen], in_full[seen], rtol=1e-5, atol=1e-5)
    assert (weakened - full)[seen].abs().max() > 1e-2
