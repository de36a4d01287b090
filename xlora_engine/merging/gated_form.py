"""An expert with a gate of its own above each A, as the router that reads it needs (PHATGOOSE)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from xlora_engine.errors import ConfigInvalid
from xlora_engine.sources.adapter_weights import Expert, LowRank


def in_gated_form(expert: Expert, gates: Mapping[str, Float[Tensor, " d_in"]]) -> Expert:
    """The same expert, a row more in every A, which leads nowhere: its column of B is zero.

    `gates` has a vector for each module that the expert adapts.

    Raises:
        ConfigInvalid: the expert adapts embeddings, or a module without a gate of its width.
    """
    updates = {path: _gated(update, path, gates.get(path)) for path, update in expert.updates.items()}
    return replace(expert, updates=updates)


def standardised(gate: Float[Tensor, " d_in"]) -> Float[Tensor, " d_in"]:
    """A trained gate as a router compares it: standardised, and divided by the root of its width.

    Its sum is zero, so that an input's mean does not matter to its product with it.
    """
    normed: Tensor = torch.nn.functional.layer_norm(gate.float(), gate.shape) * gate.shape[0] ** -0.5
    return normed


def _gated(update: LowRank, path: str, gate: Float[Tensor, " d_in"] | None) -> LowRank:
    if update.is_embedding:
        raise ConfigInvalid("adapters", "without updates of embeddings, which no gate can read", path)
    if gate is None or gate.shape[0] != update.A.shape[1]:
        found = None if gate is None else tuple(gate.shape)
        raise ConfigInvalid("gates", f"a vector of {update.A.shape[1]} for {path}", found)
    A = torch.cat([gate[None].to(update.A), update.A])
    return replace(update, A=A, B=torch.nn.functional.pad(update.B, (1, 0)))
