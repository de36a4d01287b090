"""The effect probe: does an adapter change its base model's output? One that does not is refused."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ExpertInvalid, NoEffect
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.sources.adapter_weights import read_expert

#: Number of fixed input sequences, and tokens in each.
PROBE_SEQUENCES, PROBE_TOKENS = 2, 16
PROBE_SEED = 20240211

#: Least mean divergence (nats) that counts as an effect. A short training gives 0.01 and more; float
#: error gives less than a billionth.
LEAST_EFFECT = 1e-6


def effect_score(
    with_adapter: Float[Tensor, "batch seq vocabulary"], without: Float[Tensor, "batch seq vocabulary"]
) -> float:
    """Mean Kullback-Leibler divergence (nats) of the next-token distributions with and without an adapter.

    In float64: in float32, the rounding error of a sum over the vocabulary would exceed a small effect.
    """
    divergence = F.kl_div(
        with_adapter.double().log_softmax(-1),
        without.double().log_softmax(-1),
        log_target=True,
        reduction="none",
    )
    return float(divergence.sum(-1).mean())


@torch.no_grad()
def effect_of(model: Mixture, scalings: Float[Tensor, "1 1 1 expert"], *, name: str) -> float:
    """Effect of the experts at these scalings on fixed probe tokens.

    Raises:
        NoEffect: below `LEAST_EFFECT`.
        ExpertInvalid: the model's logits with them are not finite.
    """
    token_ids = probe_ids(model.base).to(model.device)
    with model.disabled():
        without = model(token_ids).logits
    with model.fixed_scalings(scalings):
        changed = model(token_ids).logits
    score = effect_score(changed, without)
    if math.isnan(score):
        raise ExpertInvalid(
            f"adapter {name!r} makes the model's logits NaN or infinite; "
            "train it again with a lower learning rate"
        )
    if score < LEAST_EFFECT:
        raise NoEffect(
            f"adapter {name!r} changes nothing: its logits on the probe differ from the base model's by "
            f"{score:.1g} nats (at least {LEAST_EFFECT:g} expected); train it longer, or check that its "
            "weights are the intended ones"
        )
    return score


def adapter_effect(base: PreTrainedModel, folder: Path, *, name: str) -> float:
    """Effect of an adapter folder on its base model, which is left as it was.

    Raises:
        NoEffect: it changes nothing.
        ExpertInvalid: it cannot be read, does not fit, or makes the model's logits NaN or infinite.
    """
    model = Mixture(base, [read_expert(folder, name)], XLoraConfig())
    try:
        return effect_of(model, model.constant_scalings([1.0]), name=name)
    finally:
        model.unload()


def probe_ids(base: PreTrainedModel) -> Int[Tensor, "batch seq"]:
    """The same token ids for every adapter of a base model, drawn over its whole vocabulary."""
    vocabulary = base.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(PROBE_SEED)
    return torch.randint(vocabulary, (PROBE_SEQUENCES, PROBE_TOKENS), generator=generator)
