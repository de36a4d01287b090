"""The language-model loss of the mixture pass, from cached hidden states of the scaling pass."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from xlora_engine.data.chat import EncodedExample, collate
from xlora_engine.devices.host_copy import upload
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.mixture.gates import uneven_load
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.sources.architectures import decoder_of

#: Tokens that must be saved to pay for a pass over the shared prefix alone, which reads all weights for a few
#: tokens. Both costs grow with the base model; measured to be about 53 on one thread of a CPU.
_TOKENS_THAT_PAY = 64


def losses_in_parts(
    model: Mixture,
    encoded: Sequence[EncodedExample],
    examples: RoutedExamples,
    indices: Sequence[int],
    at_once: int,
    pad_id: int,
    *,
    load_penalty: float = 0.0,
) -> Iterator[Float[Tensor, ""]]:
    """What each part of at most `at_once` examples adds to the mean loss of all, computed one by one."""
    tokens = sum(len(encoded[index].answer_ids) for index in indices)
    for start in range(0, len(indices), at_once):
        part = indices[start : start + at_once]
        share = sum(len(encoded[index].answer_ids) for index in part) / tokens
        yield share * mixture_loss(model, encoded, examples, part, pad_id=pad_id, load_penalty=load_penalty)


def mixture_loss(
    model: Mixture,
    encoded: Sequence[EncodedExample],
    examples: RoutedExamples,
    indices: Sequence[int],
    *,
    pad_id: int,
    load_penalty: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean loss (nats a token) of the answers of some examples, from their cached hidden states.

    Tokens that all examples begin with are run once, as one sequence, if that pays; gradients flow through
    it as through whole examples. The vocabulary is large: logits are computed only for the last positions,
    which hold the labels. `load_penalty` is how much uneven use of the experts adds.
    """
    cache = _prefix_cache(model, encoded, examples, indices)
    shared = 0 if cache is None else examples.shared
    batch = collate([encoded[index].after(shared) for index in indices], pad_id=pad_id).to(model.device)
    hidden = upload(examples.hidden.left_padded(indices, after=shared), model.device)
    scalings = model.head(hidden)
    out = model.mixture_pass(
        scalings,
        input_ids=batch.input_ids,
        attention_mask=F.pad(batch.attention_mask, (shared, 0), value=1),
        position_ids=batch.position_ids + shared,
        labels=batch.labels[:, -batch.keep :],
        logits_to_keep=batch.keep,
        cache=cache,
        use_cache=cache is not None,
    )
    loss = cast("Tensor", out.loss)
    return loss + load_penalty * uneven_load(scalings, batch.attention_mask) if load_penalty else loss


def _prefix_cache(
    model: Mixture, encoded: Sequence[EncodedExample], examples: RoutedExamples, indices: Sequence[int]
) -> Cache | None:
    """Keys and values of the shared prefix for these examples, with their graph; None to run them whole."""
    cache = model.new_cache().mixture
    # With sliding windows, padding would push the prefix out; a recurrent state is written in place.
    grows = all(type(layer) is DynamicLayer for layer in cache.layers)
    pays = (len(indices) - 1) * examples.shared >= _TOKENS_THAT_PAY
    if not (pays and grows) or model.is_gradient_checkpointing:
        return None
    first = indices[0]
    hidden = upload(examples.hidden.left_padded([first])[:, : examples.shared], model.device)
    with model.context.using(model.head(hidden)):
        decoder_of(model.base)(
            input_ids=upload([encoded[first].token_ids[: examples.shared]], model.device),
            cache=cache,
            use_cache=True,
        )
    cache.batch_repeat_interleave(len(indices))
    return cache
