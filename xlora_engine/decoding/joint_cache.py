"""Keys and values of both passes in one set of buffers, so that one batched forward pass can carry both.

Sequences `[0, batch)` are the mixture pass's, `[batch, 2 * batch)` the scaling pass's, which is one token
ahead: the mixture's begin with one masked column, like a shorter sequence of a left-padded batch. So every
architecture that supports left padding supports this.
"""

from typing import cast

from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from xlora_engine.mixture.cache import XLoraCache

#: Buffers grow by at least this many tokens.
LEAST_GROWTH = 256


class JointCache(Cache):
    """A forward pass appends a column, or recomputes the last column of some sequences."""

    def __init__(self, held: XLoraCache, *, most_steps: int) -> None:
        """Take over the contents of `held`; at most `most_steps` columns will be appended."""
        #: Layer by layer, mixture and scaling pass; `can_be_joined` made sure of their class.
        self._held: list[tuple[DynamicLayer, DynamicLayer]] = [
            (cast("DynamicLayer", mixture), cast("DynamicLayer", scaling))
            for mixture, scaling in zip(held.mixture.layers, held.scaling.layers, strict=True)
        ]
        self._joint = [JointLayer(*pair) for pair in self._held]
        super().__init__(layers=[*self._joint])
        #: Columns in use; the scaling pass's last one is not computed yet.
        self.length = held.get_seq_length() + 1
        self._most = self.length + most_steps
        self._room = self.length

    def begin_append(self) -> None:
        """The next forward pass appends one column to every sequence."""
        self._make_room(self.length + 1)
        self._begin(None, self.length)
        self.length += 1

    def begin_again(self, sequences: slice | Int[Tensor, " sequence"]) -> None:
        """The next forward pass recomputes the last column of these sequences."""
        self._begin(sequences, self.length - 1)

    def give_back(self) -> None:
        """Write the tokens that both passes have computed back to the original cache."""
        for joint, pair in zip(self._joint, self._held, strict=True):
            joint.give_back(*pair, tokens=self.length - 1)

    def _begin(self, sequences: slice | Int[Tensor, " sequence"] | None, start: int) -> None:
        for layer in self._joint:
            layer.sequences, layer.start = sequences, start

    def _make_room(self, columns: int) -> None:
        if columns <= self._room:
            return
        wanted = columns + max(LEAST_GROWTH, columns // 2)
        self._room = max(columns, min(wanted, self._most))
        for layer in self._joint:
            layer.grow(self._room)


def can_be_joined(cache: object) -> bool:
    """Whether both passes' caches are plain growing caches of keys and values."""
    return isinstance(cache, XLoraCache) and all(
        isinstance(half, Cache)
        and not half.offloading
        and len(half.layers) > 0
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in half.layers)
        for half in (cache.mixture, cache.scaling)
    )


class JointLayer(CacheLayerMixin):
    """One attention layer's part. With a sliding window it keeps all keys; the mask hides the old ones."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, mixture: DynamicLayer, scaling: DynamicLayer) -> None:
        CacheLayerMixin.__init__(self)
        tokens = mixture.get_seq_length()
        self.keys = _joined(mixture.keys, scaling.keys, tokens)
        self.values = _joined(mixture.values, scaling.values, tokens)
        self.sequences: slice | Tensor | None = None
        self.start = 0
        self.is_initialized = True

    def grow(self, columns: int) -> None:
        """Enlarge the buffers to this many columns, keeping their contents."""
        self.keys, self.values = (_enlarged(old, columns) for old in (self.keys, self.values))

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new columns of the selected sequences; returns all their columns so far."""
        end = self.start + key_states.shape[-2]
        keys, values, sequences = self.keys, self.values, self.sequences
        if sequences is None:
            keys[:, :, self.start : end] = key_states
            values[:, :, self.start : end] = value_states
            return keys[:, :, :end], values[:, :, :end]
        keys[sequences, :, self.start : end] = key_states
        values[sequences, :, self.start : end] = value_states
        return keys[sequences, :, :end], values[sequences, :, :end]

    def rearrange(self, kept: tuple[Int[Tensor, " mixture"], Int[Tensor, " scaling"]], columns: int) -> None:
        """Keep only these columns of each pass's one sequence, adjacent, in buffers of `columns` columns."""
        self.keys, self.values = (_rearranged(old, kept, columns) for old in (self.keys, self.values))

    def give_back(self, mixture: DynamicLayer, scaling: DynamicLayer, *, tokens: int) -> None:
        """Write the first `tokens` tokens of each pass to its own layer."""
        batch = self.keys.shape[0] // 2
        for layer, sequences, begin in ((mixture, slice(0, batch), 1), (scaling, slice(batch, None), 0)):
            first = begin
            if isinstance(layer, DynamicSlidingWindowLayer):
                first += max(tokens - layer.sliding_window + 1, 0)
                layer.cumulative_length = tokens
            layer.keys = self.keys[sequences, :, first : begin + tokens]
            layer.values = self.values[sequences, :, first : begin + tokens]

    def get_seq_length(self) -> int:
        """Columns before those of the next forward pass."""
        return self.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys a mask must cover."""
        return self.start + query_length, 0

    def get_max_length(self) -> int:
        """-1: it grows."""
        return -1

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffers exist from the start."""


def _joined(mixture: Tensor | None, scaling: Tensor | None, tokens: int) -> Tensor:
    """The sequences of both passes, the mixture's one column later; columns that a window has dropped are 0.

    Not uninitialised memory: a masked column is still multiplied by a weight of 0, and 0 · NaN is NaN.
    """
    if mixture is None or scaling is None:
        raise LookupError("an empty cache has nothing to join")
    batch, heads, held, width = mixture.shape
    buffer = mixture.new_zeros(2 * batch, heads, tokens + 1, width)
    buffer[:batch, :, 1 + tokens - held :] = mixture
    buffer[batch:, :, tokens - held : tokens] = scaling
    return buffer


def _enlarged(old: Tensor, columns: int) -> Tensor:
    batch, heads, held, width = old.shape
    buffer = old.new_zeros(batch, heads, columns, width)
    buffer[:, :, :held] = old
    return buffer


def _rearranged(old: Tensor, kept: tuple[Tensor, Tensor], columns: int) -> Tensor:
    buffer = old.new_zeros(*old.shape[:2], columns, old.shape[3])
    for sequence, (columns_of_sequence, begin) in enumerate(zip(kept, (1, 0), strict=True)):
        buffer[sequence, :, begin : begin + len(columns_of_sequence)] = old[sequence].index_select(
            1, columns_of_sequence.to(old.device)
        )
    return buffer
