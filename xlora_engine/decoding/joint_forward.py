"""One forward of the base model over rows of both passes: logits, and hidden states for the scaling head."""

import threading
from typing import Any, cast

from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from xlora_engine.mixture.mixture import Mixture


def joint_forward(
    mixture: Mixture,
    ids: Int[Tensor, "row seq"],
    *,
    mask: Int[Tensor, "row cached_and_seq"],
    positions: Int[Tensor, "row seq"],
    cache: Cache,
    scalings: Float[Tensor, "row seq layer expert"] | None,
) -> tuple[Float[Tensor, "row seq vocab"], Float[Tensor, "row seq hidden"]]:
    """Logits and last hidden states of every token given; rows whose scalings are 0 are the base model's."""
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
        if threading.get_ident() == here:  # others may be decoding with the same model
            seen.append(out.last_hidden_state)

    # The base model's own forward makes the logits (some scale or cap them); a hook shows what from.
    hook = mixture.base.get_decoder().register_forward_hook(see)
    try:
        with mixture.context.using(scalings):
            logits: Tensor = mixture.base(**inputs, return_dict=True).logits
    finally:
        hook.remove()
    return logits, seen[0]
