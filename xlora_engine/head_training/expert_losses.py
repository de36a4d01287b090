"""The loss of every token of an answer, of a model as it is at the moment: one expert alone, or the base."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from xlora_engine.data.chat import EncodedExample, collate, length_grouped
from xlora_engine.data.shared_prefix import repeated, shared_prefix
from xlora_engine.devices.host_copy import upload
from xlora_engine.mixture.mixture import Mixture


@torch.no_grad()
def answer_losses(
    model: Mixture,
    examples: Sequence[EncodedExample],
    *,
    pad_id: int,
    tokens_per_batch: int,
    on_examples: Callable[[int], None] = lambda _: None,
) -> list[Float[Tensor, " answer"]]:
    """Loss (nats) of each token of each answer under the scalings that are fixed in the model, in float32.

    Tokens that all examples begin with are run once.
    """
    cache = model.new_cache().mixture
    # With sliding windows, the padding of a shorter example would push the prefix out of them.
    prefix = () if any(cache.is_sliding) else shared_prefix(examples)
    if prefix:
        input_ids = upload([list(prefix)], model.device)
        _logits(model, input_ids, torch.ones_like(input_ids), None, keep=1, cache=cache)
    own = [example.after(len(prefix)) for example in examples]
    losses: dict[int, Tensor] = {}
    for indices in length_grouped(own, tokens_per_batch=tokens_per_batch):
        batch = collate([own[index] for index in indices], pad_id=pad_id).to(model.device)
        logits = _logits(
            model,
            batch.input_ids,
            F.pad(batch.attention_mask, (len(prefix), 0), value=1),
            batch.position_ids + len(prefix),
            keep=batch.keep,
            cache=repeated(cache, len(indices)) if prefix else None,
        )
        for index, ahead in zip(indices, logits, strict=True):
            answer = examples[index].answer_ids
            losses[index] = F.cross_entropy(
                ahead[-len(answer) - 1 : -1].float(), upload(answer, model.device), reduction="none"
            ).cpu()
        on_examples(len(indices))
    return [losses[index] for index in range(len(examples))]


def _logits(
    model: Mixture,
    input_ids: Int[Tensor, "batch seq"],
    mask: Int[Tensor, "batch cached_and_seq"],
    positions: Int[Tensor, "batch seq"] | None,
    *,
    keep: int,
    cache: Cache | None,
) -> Float[Tensor, "batch kept vocabulary"]:
    out = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        logits_to_keep=keep,
        cache=cache,
        use_cache=cache is not None,
    )
    logits: Tensor = out.logits
    return logits
