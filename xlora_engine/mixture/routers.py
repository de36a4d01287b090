"""Routers without training: each layer weighs its experts by what they make of its own input.

An expert's update of a layer is written by singular vectors and values, `ΔW = U Σ Vᵀ`, so that the product
with A, which every layer computes anyway, says how the input lies to the expert.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlora_engine.errors import ConfigInvalid


class RoutedStack(Protocol):
    """Several experts' A of one or more layers, stacked; an update is one expert's of one layer."""

    #: The rank of each update, and how many updates each layer has.
    update_ranks: tuple[int, ...]
    layer_updates: tuple[int, ...]

    @property
    def update(self) -> Int[Tensor, " ranks"]:
        """The index of the update that each row of the stack belongs to."""

    @property
    def scale(self) -> Float[Tensor, " update"]:
        """What each update is multiplied by."""


def alignment(product: Float[Tensor, "*tokens rank"]) -> Float[Tensor, "*tokens"]:
    """Arrow (arXiv:2405.11157, section 4.1): the input's size along the direction that is amplified most.

    Of products with `A = Vᵀ`. As in PEFT 0.21's `ArrowLoraLinearLayer`, the input is not normalised.
    """
    return product[..., 0].abs()


def response(product: Float[Tensor, "*tokens rank"]) -> Float[Tensor, "*tokens"]:
    """SpectR (arXiv:2504.03454): the size of the expert's whole response to the input, `‖ΔW x‖`.

    Of products with `A = Σ Vᵀ`, whose norm is that of `ΔW x`.
    """
    size: Tensor = torch.linalg.vector_norm(product, dim=-1)
    return size


@dataclass(frozen=True, kw_only=True)
class RouterKind:
    """How a router scores an expert."""

    score: Callable[[Tensor], Tensor]
    #: Whether the singular values are in A, else in B.
    values_in_down: bool


ROUTERS: Mapping[str, RouterKind] = MappingProxyType(
    {
        "arrow": RouterKind(score=alignment, values_in_down=False),
        "spectr": RouterKind(score=response, values_in_down=True),
    }
)


@dataclass(frozen=True, kw_only=True)
class Router:
    """Softmax over the scores of a token's best experts in a layer."""

    kind: str
    #: How many experts of a layer a token uses; all if there are fewer.
    top_k: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        if self.kind not in ROUTERS:
            raise ConfigInvalid("router", f"one of {', '.join(ROUTERS)}", self.kind)
        if self.top_k < 1:
            raise ConfigInvalid("top_k", "at least 1", self.top_k)
        if not self.temperature > 0:
            raise ConfigInvalid("temperature", "above 0", self.temperature)

    def gates(
        self, products: Float[Tensor, "*tokens ranks"], stack: RoutedStack
    ) -> Float[Tensor, "*tokens ranks"]:
        """What each product is multiplied by: its expert's share of its layer, times its scale."""
        score = ROUTERS[self.kind].score
        scores = torch.stack([score(part.float()) for part in products.split(stack.update_ranks, -1)], -1)
        shares = torch.cat([self._shares(layer) for layer in scores.split(stack.layer_updates, -1)], -1)
        gates: Tensor = (shares * stack.scale).index_select(-1, stack.update)
        return gates

    def _shares(self, scores: Float[Tensor, "*tokens expert"]) -> Float[Tensor, "*tokens expert"]:
        best = scores.topk(min(self.top_k, scores.shape[-1]), dim=-1)
        shares = (best.values / self.temperature).softmax(-1)
        return torch.zeros_like(scores).scatter(-1, best.indices, shares)
