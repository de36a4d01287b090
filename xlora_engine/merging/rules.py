"""Every rule that merges the updates of one module into one, in one table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from peft.utils import merge_utils
from torch import Tensor

from xlora_engine.errors import ConfigInvalid
from xlora_engine.merging.factors import Factors, cut, nearest, total


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """What a rule may be told."""

    #: Number of experts of the merge, those that leave a module alone included.
    experts: int
    #: Largest rank of a merged update; None: the sum of the experts' ranks.
    rank: int | None = None
    #: Share of the entries of an expert's update that are kept.
    density: float = 0.2
    #: What the merged update is multiplied by.
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what no rule can honour."""
        if self.rank is not None and self.rank < 1:
            raise ConfigInvalid("rank", "at least 1", self.rank)
        if not 0 < self.density < 1:
            raise ConfigInvalid("density", "above 0 and below 1", self.density)

    def rank_of(self, updates: Sequence[Factors]) -> int:
        """The rank that the merged update may have."""
        return self.rank or sum(update.rank for update in updates)


#: Merges the updates of one module by the experts that have one.
Rule = Callable[[Sequence[Factors], MergeSettings], Factors]


def mean(updates: Sequence[Factors], settings: MergeSettings) -> Factors:
    """The mean of the updates, that of an expert without one being zero (task arithmetic, arXiv:2212.04089).

    Exact where the rank may be the sum of the experts' ranks, else the nearest update of the rank asked for.
    PEFT's `linear` adds A and B apart, which adds the products of one expert's A and another's B.
    """
    return cut(total(updates).times(1 / settings.experts), settings.rank_of(updates))


def ties(updates: Sequence[Factors], settings: MergeSettings) -> Factors:
    """TIES (arXiv:2306.01708): of each update the largest entries, of these the mean of the commoner sign."""
    merged = _trimmed_mean([update.product() for update in updates], settings.density)
    return nearest(merged, settings.rank_of(updates))


def dare(updates: Sequence[Factors], settings: MergeSettings) -> Factors:
    """DARE (arXiv:2311.03099): entries dropped at random, the rest scaled up, then their mean."""
    weights = torch.full((len(updates),), 1 / settings.experts)
    merged: Tensor = merge_utils.dare_linear(
        [update.product() for update in updates], weights, settings.density
    )
    return nearest(merged, settings.rank_of(updates))


def core_ties(updates: Sequence[Factors], settings: MergeSettings) -> Factors:
    """TIES in the space that the updates share (Core Space, arXiv:2509.17786).

    With `U` a basis of all columns of the B and `V` of all rows of the A, every update is `U M Vᵀ` with a
    small `M`; the `M` are merged, so the rank is at most the sum of the ranks and nothing is cut off.
    """
    U = torch.linalg.svd(torch.cat([update.B for update in updates], 1).double(), full_matrices=False).U
    Vh = torch.linalg.svd(torch.cat([update.A for update in updates], 0).double(), full_matrices=False).Vh
    cores = [(U.T @ update.B.double()) @ (update.A.double() @ Vh.T) for update in updates]
    merged = Factors(A=Vh.float(), B=(U @ _trimmed_mean(cores, settings.density)).float())
    return cut(merged, settings.rank_of(updates))


def pico(updates: Sequence[Factors], settings: MergeSettings) -> Factors:
    """Pico with task arithmetic (arXiv:2604.16826, section 4): directions that the B share weigh less.

    Of the singular values `σ` of all B beside each other, direction `j` has the share `s_j = σ_j² / Σ σ²` and
    is multiplied by `1 / (1 + (T - 1) s_j)`; the merged update gets the experts' mean norm.
    """
    U, singular, _ = torch.linalg.svd(torch.cat([update.B for update in updates], 1), full_matrices=False)
    share = singular**2 / (singular**2).sum()
    kept = 1 / (1 + (len(updates) - 1) * share)
    calibrated = [
        Factors(A=update.A, B=update.B + U @ ((kept - 1)[:, None] * (U.T @ update.B))) for update in updates
    ]
    merged = mean(calibrated, settings)
    norms = torch.stack([update.norm for update in updates])
    return merged.times(norms.sum() / settings.experts / merged.norm)


def _trimmed_mean(matrices: Sequence[Float[Tensor, "rows columns"]], density: float) -> Tensor:
    merged: Tensor = merge_utils.ties(
        list(matrices), torch.ones(len(matrices), dtype=matrices[0].dtype), density
    )
    return merged


#: name -> rule
RULES: Mapping[str, Rule] = MappingProxyType(
    {"mean": mean, "ties": ties, "dare": dare, "core-ties": core_ties, "pico": pico}
)
