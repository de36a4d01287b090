"""From the scaling head's logits to scalings: temperature, softmax, top-k. Pure tensor functions."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xlora_engine.config import XLoraConfig


def gate(
    logits: Float[Tensor, "batch seq #layer expert"],
    config: XLoraConfig,
    *,
    present: Bool[Tensor, "layer expert"] | None = None,
) -> Float[Tensor, "batch seq layer expert"]:
    """Scalings of every expert, for each token and layer, as the configuration asks (arXiv:2402.07148).

    Each token is gated by itself, over `expert` alone, so that scalings stay causal. Computed in
    float32 at least: they are few, and every expert's contribution depends on them.

    `present` says which experts adapt each layer; a softmax then runs over these alone: the others get
    0 and their share is divided among those present, in proportion.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if present is not None:
        logits = logits.masked_fill(~present, -torch.inf)
    if config.sigmoid_floor is not None:
        return config.sigmoid_floor + (1 - config.sigmoid_floor) * logits.sigmoid()
    if config.enable_softmax_topk and config.top_k_lora is not None:
        return softmax_over_top_k(logits / config.softmax_temperature, config.top_k_lora)
    scalings = (logits / config.softmax_temperature).softmax(-1) if config.enable_softmax else logits
    if config.unit_top_1:
        return best_at_unit_scale(scalings)
    return scalings if config.top_k_lora is None else keep_top_k(scalings, config.top_k_lora)


def best_at_unit_scale(
    shares: Float[Tensor, "batch seq layer expert"],
) -> Float[Tensor, "batch seq layer expert"]:
    """1 for each token's best expert, 0 for the others; the gradient is that of the shares.

    The straight-through estimator (arXiv:1308.3432), as hard-routed mixtures of LoRA take it
    (arXiv:2606.31413): an expert acts as it was trained, or not at all.
    """
    hard = torch.zeros_like(shares).scatter(-1, shares.argmax(-1, keepdim=True), 1.0)
    return hard + (shares - shares.detach())


def uneven_load(
    scalings: Float[Tensor, "batch seq layer expert"], mask: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """How unevenly experts are used: 0 if all alike, their number less 1 if one alone; mean over layers.

    The squared coefficient of variation of the experts' load over the tokens that `mask` keeps
    (arXiv:1701.06538, section 4).
    """
    kept = scalings[mask.bool()]
    load = (kept / kept.sum(-1, keepdim=True)).mean(0)
    uneven: Tensor = (load.shape[-1] * (load**2).sum(-1) - 1).mean()
    return uneven


def keep_top_k(
    scalings: Float[Tensor, "batch seq layer expert"], k: int
) -> Float[Tensor, "batch seq layer expert"]:
    """Each token's k largest scalings; the others become 0 and their share is dropped, as in the paper."""
    kept = scalings.topk(k, dim=-1)
    return torch.zeros_like(scalings).scatter(-1, kept.indices, kept.values)


def softmax_over_top_k(
    logits: Float[Tensor, "batch seq layer expert"], k: int
) -> Float[Tensor, "batch seq layer expert"]:
    """Softmax over each token's k largest logits; the other experts get 0.

    The original implementation normalised over batch, tokens and experts at once, which let later
    tokens change earlier ones (huggingface/peft#2786).
    """
    kept = logits.topk(k, dim=-1)
    return torch.zeros_like(logits).scatter(-1, kept.indices, kept.values.softmax(-1))
