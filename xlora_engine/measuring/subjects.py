"""What one mixture can be asked as: a constant weight for each expert, or its head's scalings, changed."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from xlora_engine.mixture.routers import Router

#: A share that is left for the others to divide; below it there is nothing to divide.
_LEAST_SHARE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One way to weigh a mixture's experts: all zero is the base, one-hot is one adapter, 1/n is uniform."""

    name: str
    #: For each expert its scaling, or with `reads_head` what its scaling is multiplied by.
    weights: tuple[float, ...]
    #: Whether the scalings are those of the mixture's head.
    reads_head: bool = False
    #: Whether what the weights take from the head's scalings goes to the experts that are left.
    keeps_sum: bool = False
    #: What weighs the experts in each layer instead; the weights then say nothing.
    router: Router | None = None

    @property
    def is_constant(self) -> bool:
        """Whether its weights are its scalings."""
        return not self.reads_head and self.router is None

    def without(self, expert: int, *, name: str, divides_share: bool) -> "Subject":
        """The same without one expert, whose share the others divide in proportion, or which is dropped.

        Under a softmax they divide it, as if its logit did not exist; without one, scalings are independent.
        """
        left = tuple(0.0 if position == expert else weight for position, weight in enumerate(self.weights))
        if self.reads_head:
            return replace(self, name=name, weights=left, keeps_sum=divides_share)
        total = sum(left)
        factor = sum(self.weights) / total if divides_share and total else 1.0
        return replace(self, name=name, weights=tuple(weight * factor for weight in left))

    def scaled(self, factor: float, *, name: str) -> "Subject":
        """The same with every scaling times a factor."""
        return replace(self, name=name, weights=tuple(weight * factor for weight in self.weights))

    def scalings(
        self, of_head: Float[Tensor, "batch seq layer expert"]
    ) -> Float[Tensor, "batch seq layer expert"]:
        """This subject's scalings, where the head says these."""
        weights = torch.tensor(self.weights, device=of_head.device)
        if not self.reads_head:
            return weights.expand(of_head.shape)
        changed = of_head * weights
        if not self.keeps_sum:
            return changed
        left = changed.sum(-1, keepdim=True)
        return changed * (of_head.sum(-1, keepdim=True) / left.clamp_min(_LEAST_SHARE))
