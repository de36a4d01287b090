"""How far two adapters read the same directions of their inputs."""

import torch
from torch import Tensor

from xlora_engine.sources.adapter_weights import Expert, LowRank


def overlap(one: Expert, other: Expert) -> float:
    """The share of an adapter's input directions that the other has too, mean over modules that both adapt.

    Of each module the mean squared cosine of the principal angles between the row spaces of both A, out of
    the smaller rank: 1 if one contains the other, near nothing for adapters that have nothing in common.
    """
    shared = [path for path in one.updates if path in other.updates]
    if not shared:
        return 0.0
    return sum(_at(one.updates[path], other.updates[path]) for path in shared) / len(shared)


def _at(one: LowRank, other: LowRank) -> float:
    directions = [_row_space(update.A) for update in (one, other)]
    cosines = torch.linalg.matrix_norm(directions[0].T @ directions[1])
    return float(cosines**2) / min(one.rank, other.rank)


def _row_space(A: Tensor) -> Tensor:
    directions: Tensor = torch.linalg.qr(A.T.float()).Q
    return directions
