"""Routing statistics of a mixture: load of every expert, entropy of the gates, load by layer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: An expert whose mean scaling is below this in every layer is called dead.
DEAD_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Routing over some tokens, averaged; plain numbers, ready for JSON."""

    experts: tuple[str, ...]
    tokens: int
    #: Mean scaling of each expert in each layer: a list of layers, each a list of experts.
    load_by_layer: tuple[tuple[float, ...], ...]
    #: Mean entropy of the gates, as a share of the largest possible: 0 is one expert, 1 is all equally.
    entropy: float
    #: How far layers differ: the standard deviation over layers of a token's scalings, mean over experts.
    layer_spread: float = 0.0

    @property
    def load(self) -> dict[str, float]:
        """Mean scaling of each expert over tokens and layers."""
        means = torch.tensor(self.load_by_layer).mean(0).tolist()
        return dict(zip(self.experts, means, strict=True))

    @property
    def dead(self) -> tuple[str, ...]:
        """Experts with a negligible share in every layer."""
        most = torch.tensor(self.load_by_layer).amax(0).tolist()
        return tuple(name for name, share in zip(self.experts, most, strict=True) if share < DEAD_SHARE)


class RoutingRecorder:
    """Adds up scalings batch by batch: only sums are kept, on the CPU, without graphs or padding."""

    def __init__(self, experts: tuple[str, ...]) -> None:
        self.experts = experts
        self._load: Float[Tensor, "layer expert"] | None = None
        self._entropy = 0.0
        self._spread = 0.0
        self._tokens = 0

    def add(self, scalings: Float[Tensor, "batch seq layer expert"], mask: Int[Tensor, "batch seq"]) -> None:
        """Count every token whose mask is not 0."""
        counted = scalings.detach()[mask.bool()].cpu().double()
        load = counted.sum(0)
        self._load = load if self._load is None else self._load + load
        self._spread += float(counted.std(1, correction=0).mean(-1).sum())
        self._entropy += float(normalised_entropy(counted).mean(-1).sum())
        self._tokens += len(counted)

    def result(self) -> Routing:
        """The sums, averaged over tokens."""
        load = torch.zeros(1, len(self.experts)) if self._load is None else self._load
        tokens = max(self._tokens, 1)
        return Routing(
            experts=self.experts,
            tokens=self._tokens,
            load_by_layer=tuple(tuple(layer) for layer in (load / tokens).tolist()),
            entropy=self._entropy / tokens,
            layer_spread=self._spread / tokens,
        )


def normalised_entropy(
    scalings: Float[Tensor, "*tokens layer expert"],
) -> Float[Tensor, "*tokens layer"]:
    """Entropy of each gate over its largest possible value, log of the number of experts."""
    count = scalings.shape[-1]
    if count == 1:
        return torch.zeros_like(scalings[..., 0])
    shares = scalings.clamp_min(0)
    shares = shares / shares.sum(-1, keepdim=True).clamp_min(1e-12)
    return -(shares * shares.clamp_min(1e-12).log()).sum(-1) / torch.tensor(float(count)).log()
