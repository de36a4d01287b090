"""The key-value cache of an X-LoRA model: one cache for each pass, behind one object."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache

from xlora_engine.errors import CacheUnsupported


class XLoraCache(Cache):
    """Keys and values of the scaling pass and of the mixture pass.

    Two caches are exact: the scaling pass is causal and its own scalings are constant, so a token's
    hidden state, hence its scalings, never changes when later tokens arrive. (An implementation that
    shares one cache between the passes writes every token into it twice.)

    Changes that generation makes are applied to both caches; its questions are answered by the mixture's.
    """

    def __init__(self, scaling: Cache, mixture: Cache) -> None:
        super().__init__(layers=[])
        self.scaling = scaling
        self.mixture = mixture
        # The same list, not a copy: code that reads `layers` sees those that the mixture pass fills.
        self.layers = mixture.layers
        #: Whether both caches hold the same tokens; with frozen scalings only the mixture's grows.
        self.is_whole = True

    @classmethod
    def for_base(cls, config: PreTrainedConfig) -> "XLoraCache":
        """Two empty caches that grow, for a base model of this configuration."""
        decoder = config.get_text_config(decoder=True)
        return cls(DynamicCache(config=decoder), DynamicCache(config=decoder))

    @property
    def is_compileable(self) -> bool:
        """Never: what would be compiled is the base model's step, which is half of a mixture's."""
        return False

    def update(self, *_args: object, **_kwargs: object) -> tuple[Tensor, Tensor]:
        """Refused: a base model must be given one of the two caches, never this one.

        Raises:
            CacheUnsupported: always.
        """
        raise CacheUnsupported(
            "an X-LoRA cache was handed to a model that is not an XLoraModel; give it a DynamicCache"
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held, the same in both caches."""
        return int(self.mixture.get_seq_length(layer_idx))

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """The most tokens the cache can hold, -1 where it grows."""
        return int(self.mixture.get_max_length(layer_idx))

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of the keys a mask must cover."""
        length, offset = self.mixture.get_mask_sizes(query_length, layer_idx)
        return int(length), int(offset)

    def reset(self) -> None:
        """Forget every token."""
        self._both(lambda cache: cache.reset())
        self.is_whole = True

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put the sequences in the order of the beams."""
        self._both(lambda cache: cache.reorder_cache(beam_idx))

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens."""
        self._both(lambda cache: cache.crop(tokens_to_remove))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence."""
        self._both(lambda cache: cache.batch_repeat_interleave(repeats))

    def batch_select_indices(self, indices: Int[Tensor, " batch"]) -> None:
        """Keep only these sequences."""
        self._both(lambda cache: cache.batch_select_indices(indices))

    def activate_past_recording(self) -> None:
        """Keep the states that a later `crop` may need, in both caches."""
        self._both(lambda cache: cache.activate_past_recording())

    def _both(self, act: Callable[[Cache], object]) -> None:
        act(self.scaling)
        act(self.mixture)


def require_xlora_cache(cache: object) -> XLoraCache | None:
    """The cache, if it can hold both passes.

    Raises:
        CacheUnsupported: it is a cache of one pass only, or one pass lacks tokens.
    """
    if cache is None or (isinstance(cache, XLoraCache) and cache.is_whole):
        return cache
    if isinstance(cache, XLoraCache):
        raise CacheUnsupported(
            "the scaling pass has not seen all tokens of this cache, which was used with frozen scalings; "
            "start with a new one"
        )
    raise CacheUnsupported(
        f"a {type(cache).__name__} holds the keys and values of one pass, an X-LoRA model has two; "
        "pass model.new_cache() or leave the cache out"
    )
