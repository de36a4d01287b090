"""A joint cache of one sequence in which the two passes may hold different numbers of tokens.

A forward pass writes the same columns for both passes. Where one has fewer tokens than the other, the columns
between are masked; they are removed when the buffers grow.
"""

from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from xlora_engine.decoding.joint_cache import LEAST_GROWTH, JointLayer, can_be_joined
from xlora_engine.devices.host_copy import upload
from xlora_engine.mixture.cache import XLoraCache

MIXTURE, SCALING = 0, 1


class RaggedCache(Cache):
    """Keys and values of both passes over one sequence, and the mask of the columns that each pass uses."""

    def __init__(self, held: XLoraCache, mask: Int[Tensor, "1 seq"] | None, device: torch.device) -> None:
        """Take over the contents of `held`; the mask hides padding."""
        self._held = [
            (cast("DynamicLayer", mixture), cast("DynamicLayer", scaling))
            for mixture, scaling in zip(held.mixture.layers, held.scaling.layers, strict=True)
        ]
        self._joint = [JointLayer(*pair) for pair in self._held]
        super().__init__(layers=[*self._joint])
        tokens = held.get_seq_length()
        #: The column of each token of each pass, padding included.
        self._columns = (list(range(1, tokens + 1)), list(range(tokens)))
        self._mask = torch.ones(2, tokens + 1, dtype=torch.long, device=device)
        if mask is not None:
            for sequence, columns in enumerate(self._columns):
                self._mask[sequence, columns[0] : columns[-1] + 1] = mask[0, :tokens]
        self._mask[MIXTURE, 0] = 0

    def begin_joint(self, mixture: int, scaling: int) -> Int[Tensor, "2 columns"]:
        """The next forward pass appends this many tokens to each pass, the fewer padded; returns its mask."""
        width = max(mixture, scaling)
        if max(map(_end, self._columns)) + width > self._mask.shape[1]:
            self._grow(width)
        start = max(map(_end, self._columns))
        for sequence, tokens in ((MIXTURE, mixture), (SCALING, scaling)):
            self._mask[sequence, _end(self._columns[sequence]) : start] = 0
            self._columns[sequence].extend(range(start, start + tokens))
        return self._begin(slice(None), start, start + width)

    def begin_scaling(self, tokens: int) -> Int[Tensor, "1 columns"]:
        """The next forward pass appends this many tokens to the scaling pass; returns its mask."""
        if _end(self._columns[SCALING]) + tokens > self._mask.shape[1]:
            self._grow(tokens)
        start = _end(self._columns[SCALING])
        self._columns[SCALING].extend(range(start, start + tokens))
        return self._begin(slice(SCALING, None), start, start + tokens)

    def tokens(self, sequence: int) -> int:
        """Tokens that a pass holds, padding included."""
        return len(self._columns[sequence])

    def keep(self, *, mixture: int, scaling: int) -> None:
        """Keep only the first tokens of each pass."""
        del self._columns[MIXTURE][mixture:]
        del self._columns[SCALING][scaling:]

    def give_back(self) -> None:
        """Write the tokens that both passes have computed back to the original cache."""
        tokens = min(map(len, self._columns))
        self._rearrange(tokens + 1)
        for joint, pair in zip(self._joint, self._held, strict=True):
            joint.give_back(*pair, tokens=tokens)

    def _begin(self, sequences: slice, start: int, end: int) -> Int[Tensor, "sequence columns"]:
        for layer in self._joint:
            layer.sequences, layer.start = None if sequences == slice(None) else sequences, start
        self._mask[sequences, start:end] = 1
        return self._mask[sequences, :end]

    def _grow(self, tokens: int) -> None:
        wanted = max(map(len, self._columns)) + 1 + tokens
        self._rearrange(wanted + max(LEAST_GROWTH, wanted // 2))

    def _rearrange(self, columns: int) -> None:
        device = self._mask.device
        mixture, scaling = (upload(columns_of_sequence, device) for columns_of_sequence in self._columns)
        for layer in self._joint:
            layer.rearrange((mixture, scaling), columns)
        mask = self._mask.new_ones(2, columns)
        mask[MIXTURE, 0] = 0
        for sequence, (kept, begin) in enumerate(((mixture, 1), (scaling, 0))):
            mask[sequence, begin : begin + len(kept)] = self._mask[sequence].index_select(0, kept)
            self._columns[sequence][:] = range(begin, begin + len(kept))
        self._mask = mask


def can_be_ragged(cache: object) -> bool:
    """Whether a joint cache made of this one may leave columns out, because no sliding window counts them."""
    return (
        can_be_joined(cache)
        and isinstance(cache, XLoraCache)
        and all(
            type(layer) is DynamicLayer for half in (cache.mixture, cache.scaling) for layer in half.layers
        )
    )


def _end(columns: list[int]) -> int:
    return columns[-1] + 1
