"""The tokens with which all rows begin: what a causal model makes of them is the same for every row.

A chat template's opening and a system message are often half of a short row.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from xlora_engine.data.chat import EncodedRow
from xlora_engine.devices.host_copy import upload


class ScalingPass(Protocol):
    """What computes hidden states; `Mixture.scaling_pass` is one."""

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
    """Hidden states, keys and values of the tokens all rows begin with."""

    hidden: Float[Tensor, "prefix hidden"]
    cache: Cache

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.hidden)

    def repeated(self, rows: int) -> Cache:
        """A cache that holds the prefix for so many rows, to be gone on from once."""
        return repeated(self.cache, rows)


def repeated(cache: Cache, rows: int) -> Cache:
    """A copy of a cache of one row, for so many rows."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied


def shared_prefix(rows: Sequence[EncodedRow]) -> tuple[int, ...]:
    """Tokens with which the prompt of every row begins, but for one at least that is a row's own."""
    columns = zip(*(row.token_ids[: max(row.prompt_length - 1, 0)] for row in rows), strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))


def run_shared_prefix(
    scaling_pass: ScalingPass,
    rows: Sequence[EncodedRow],
    *,
    new_cache: Callable[[], Cache],
    device: torch.device,
) -> SharedPrefix | None:
    """Run the scaling pass over the rows' shared prefix; None where they share none."""
    token_ids = shared_prefix(rows)
    if not token_ids:
        return None
    input_ids = upload([token_ids], device)
    cache = new_cache()
    hidden = scaling_pass(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        position_ids=torch.arange(len(token_ids), device=device)[None],
        cache=cache,
    )
    return SharedPrefix(hidden=hidden[0].to("cpu", torch.bfloat16), cache=cache)
