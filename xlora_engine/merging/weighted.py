"""A static merge whose weights were learnt: for each module, a weight for each expert."""

from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import torch

from xlora_engine.merging.factors import Factors, cut, total
from xlora_engine.merging.merged_adapter import config_of
from xlora_engine.sources.adapter_weights import Expert, LowRank


def weighted(
    experts: Sequence[Expert],
    *,
    name: str,
    weights: Mapping[str, Sequence[float]],
    scale: float = 1.0,
    rank: int | None = None,
    modules: Collection[str],
) -> Expert:
    """One adapter that computes the weighted sum of the experts' updates, exactly unless `rank` cuts it.

    `weights` has, for each module that any expert adapts, a number for each expert. Its rank is the sum of
    the experts'. `modules` are the paths of all modules of the base model, as for `merged`.
    """
    updates = {path: _at(path, experts, each, scale, rank) for path, each in weights.items()}
    return Expert(name=name, config=config_of(updates, modules), updates=updates)


def _at(
    path: str, experts: Sequence[Expert], weights: Sequence[float], scale: float, rank: int | None
) -> LowRank:
    adapting = [
        (expert.updates[path], weight)
        for expert, weight in zip(experts, weights, strict=True)
        if path in expert.updates
    ]
    summed = total([Factors.of(update).times(weight * scale) for update, weight in adapting])
    found = summed if rank is None else cut(summed, rank)
    dtype = reduce(torch.promote_types, (update.A.dtype for update, _ in adapting))
    return LowRank(
        A=found.A.to(dtype), B=found.B.to(dtype), scale=1.0, is_embedding=adapting[0][0].is_embedding
    )
