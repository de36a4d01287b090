"""Decoding with scalings that stop changing: one pass a token from then on, and no longer exact.

mistral.rs has this as `tgt_non_granular_index`, for one sequence; here every sequence keeps its own scalings.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from xlora_engine.decoding.decoder import Decoder
from xlora_engine.errors import ConfigInvalid
from xlora_engine.mixture.cache import XLoraCache
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.mixture.model_output import XLoraOutput

_FIELD = "scalings_frozen_after"


class FrozenDecoder(Decoder):
    """Computes scalings for the first tokens; each sequence's last ones hold for all later tokens."""

    def __init__(self, mixture: Mixture, *, after: int) -> None:
        """Raises ConfigInvalid if `after` is not a number of tokens."""
        if isinstance(after, bool) or not isinstance(after, int) or after < 0:
            raise ConfigInvalid(_FIELD, "a number of tokens, 0 for the prompt's scalings alone", after)
        super().__init__(mixture, prefetch_scalings=False)
        self._left = after
        self._has_read_prompt = False
        self._frozen: Float[Tensor, "batch 1 layer expert"] | None = None

    def __call__(self, *args: Any, **inputs: Any) -> XLoraOutput:
        """One step, in one pass once scalings are frozen."""
        if self._frozen is not None:
            return self._step_in_one_pass(self._frozen, **inputs)
        out = super().__call__(*args, **inputs)
        if self._has_read_prompt:
            self._left -= 1
            self._freeze(out)
        return out

    def _prefill(self, *args: Any, **kwargs: Any) -> Any:
        """Run the prompt, in one call for each of its chunks."""
        out = super()._prefill(*args, **kwargs)
        self._has_read_prompt = True
        self._freeze(out)
        return out

    def _freeze(self, out: XLoraOutput) -> None:
        if self._left == 0 and out.scalings is not None:
            self._frozen = out.scalings[:, -1:]

    def _step_in_one_pass(self, scalings: Tensor, **inputs: Any) -> XLoraOutput:
        cache = inputs.pop("cache", None)
        if not isinstance(cache, XLoraCache):
            raise ConfigInvalid("use_cache", f"true with {_FIELD}", False)
        cache.is_whole = False
        out = self.mixture.mixture_pass(scalings, **inputs, cache=cache.mixture)
        return XLoraOutput.of(out, scalings=scalings, cache=cache)

    def _beam_search(self, *_args: Any, **_kwargs: Any) -> Any:
        raise ConfigInvalid(_FIELD, "left out with beams, which reorder sequences", self._left)

    def _assisted_decoding(self, *_args: Any, **_kwargs: Any) -> Any:
        raise ConfigInvalid(_FIELD, "left out with drafts, some of which are dropped", self._left)
