"""The tokens that all examples begin with, for which a causal model computes the same in every example.

A chat template's opening and a system message are often half of a short example.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from xlora_engine.data.chat import EncodedExample
from xlora_engine.devices.host_copy import upload


class ScalingPass(Protocol):
    """Computes hidden states, as `Mixture.scaling_pass` does."""

    def __call__(
        self,
        input_ids: Int[Tensor, "batch seq"],
        *,
        attention_mask: Int[Tensor, "batch cached_and_seq"],
        position_ids: Int[Tensor, "batch seq"],
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq hidden"]:
        """Last hidden states of the base model, after its final norm."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedPrefix:
    """Hidden states, keys and values of the tokens that all examples begin with."""

    hidden: Float[Tensor, "prefix hidden"]
    cache: Cache

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.hidden)

    def repeated(self, batch: int) -> Cache:
        """A cache that holds the prefix for a batch of sequences, to be continued once."""
        return repeated(self.cache, batch)


def can_share(cache: Cache, *, left_padded: bool) -> bool:
    """Whether a batch can continue what such a cache holds of its shared prefix.

    Only where every layer holds keys and values, which can be repeated; a recurrent state cannot. Padding
    between the prefix and an example would push the prefix out of a sliding window.
    """
    shareable = (DynamicLayer,) if left_padded else (DynamicLayer, DynamicSlidingWindowLayer)
    return all(type(layer) in shareable for layer in cache.layers)


def repeated(cache: Cache, batch: int) -> Cache:
    """A copy of a cache of one sequence, repeated for a batch."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(batch)
    return copied


def shared_prefix(examples: Sequence[EncodedExample]) -> tuple[int, ...]:
    """Tokens that the prompt of every example begins with; at least its last token is not shared."""
    columns = zip(
        *(example.token_ids[: max(example.prompt_length - 1, 0)] for example in examples), strict=False
    )
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


def run_shared_prefix(
    scaling_pass: ScalingPass,
    examples: Sequence[EncodedExample],
    *,
    new_cache: Callable[[], Cache],
    device: torch.device,
) -> SharedPrefix | None:
    """Run the scaling pass over the examples' shared prefix; None if there is none that can be continued."""
    token_ids = shared_prefix(examples)
    cache = new_cache()
    if not token_ids or not can_share(cache, left_padded=False):
        return None
    input_ids = upload([token_ids], device)
    hidden = scaling_pass(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        position_ids=torch.arange(len(token_ids), device=device)[None],
        cache=cache,
    )
    return SharedPrefix(hidden=hidden[0].to("cpu", torch.bfloat16), cache=cache)
