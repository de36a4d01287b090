"""Tokens that all examples begin with are run once, and every example's hidden states stay what they were."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from tests.small_bases import SMALL_BASES
from xlora_engine.data.chat import EncodedExample
from xlora_engine.data.shared_prefix import can_share, shared_prefix
from xlora_engine.head_training.hidden_states import compute_hidden_states
from xlora_engine.mixture.cache import XLoraCache
from xlora_engine.sources.architectures import decoder_of

EXAMPLES = [
    EncodedExample(token_ids=(1, 2, 3, 9, 4, 5), prompt_length=5),
    EncodedExample(token_ids=(1, 2, 3, 8, 5), prompt_length=4),
    EncodedExample(token_ids=(1, 2, 3, 7, 6, 4, 5), prompt_length=6),
]


class CountingPass:
    """A base model's own forward, and how many tokens it was asked for."""

    def __init__(self, base: PreTrainedModel) -> None:
        self._base = base
        self.tokens = 0

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, *, cache: Cache | None = None, **inputs: Any) -> Tensor:
        self.tokens += input_ids.numel()
        out = decoder_of(self._base)(input_ids=input_ids, cache=cache, use_cache=cache is not None, **inputs)
        hidden: Tensor = out.last_hidden_state
        return hidden

    def new_cache(self) -> Cache:
        return XLoraCache.for_base(self._base.config).scaling


def test_the_shared_prefix_ends_before_the_first_token_that_differs() -> None:
    assert shared_prefix(EXAMPLES) == (1, 2, 3)
    assert shared_prefix([*EXAMPLES, EncodedExample(token_ids=(2, 3, 4), prompt_length=2)]) == ()


def test_equal_prompts_keep_a_token_of_their_own() -> None:
    assert shared_prefix([EncodedExample(token_ids=(1, 2, 3, 4), prompt_length=3)] * 2) == (1, 2)


@pytest.mark.parametrize("name", SMALL_BASES)
def test_hidden_states_are_those_of_each_sequence_alone(name: str) -> None:
    counting = CountingPass(SMALL_BASES[name].build())
    hidden = compute_hidden_states(
        counting,
        EXAMPLES,
        new_cache=counting.new_cache,
        pad_id=0,
        tokens_per_batch=64,
        device=torch.device("cpu"),
    )
    # The prefix once, and what is left of three examples, padded to the longest; or all, padded.
    shared = can_share(counting.new_cache(), left_padded=False)
    assert counting.tokens == (3 + 3 * 4 if shared else 3 * 7)
    for index, example in enumerate(EXAMPLES):
        input_ids = torch.tensor([example.token_ids])
        alone = counting(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            position_ids=torch.arange(len(example.token_ids))[None],
        )[0]
        # Stored in bfloat16: 8 bits.
        torch.testing.assert_close(hidden.of(index).float(), alone, rtol=1e-2, atol=1e-2)


def test_sequences_without_a_shared_prefix_are_run_whole() -> None:
    examples = [*EXAMPLES, EncodedExample(token_ids=(2, 3, 4), prompt_length=2)]
    counting = CountingPass(SMALL_BASES["Llama"].build())
    hidden = compute_hidden_states(
        counting,
        examples,
        new_cache=counting.new_cache,
        pad_id=0,
        tokens_per_batch=64,
        device=torch.device("cpu"),
    )
    assert counting.tokens == 4 * 7
    assert [len(hidden.of(index)) for index in range(4)] == [6, 5, 7, 3]
