"""One forward pass of the base model over sequences of both passes: logits, and the scaling head's input."""

import threading
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from xlora_engine.mixture.mixture import Mixture
from xlora_engine.sources.architectures import decoder_of


def joint_forward(
    mixture: Mixture,
    ids: Int[Tensor, "sequence seq"],
    *,
    mask: Int[Tensor, "sequence cached_and_seq"],
    positions: Int[Tensor, "sequence seq"],
    cache: Cache,
    scalings: Float[Tensor, "sequence seq layer expert"] | None,
) -> tuple[Float[Tensor, "sequence seq vocab"], Float[Tensor, "sequence seq hidden"]]:
    """Logits and last hidden states of every token given; with scalings of 0, the base model's."""
    inputs = cast("GenerationMixin", mixture.base).prepare_inputs_for_generation(
        ids,
        attention_mask=mask,
        position_ids=positions,
        cache=cache,
        use_cache=True,
        logits_to_keep=ids.shape[1],
    )
    seen: list[Tensor] = []
    here = threading.get_ident()

    def see(_module: object, _inputs: object, out: Any) -> None:
        if threading.get_ident() == here:  # other threads may be decoding with the same model
            seen.append(out.last_hidden_state)

    # The base model's own forward computes the logits (some scale or cap them); a hook gets its input.
    hook = decoder_of(mixture.base).register_forward_hook(see)
    try:
        with mixture.context.using(scalings):
            logits: Tensor = mixture.base(**inputs, return_dict=True).logits
    finally:
        hook.remove()
    return logits, seen[0]
