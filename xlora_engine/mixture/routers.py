"""Routers: each layer weighs its experts by what they make of its own input, without a pass to look ahead.

An expert's update of a layer is written by singular vectors and values, `ΔW = U Σ Vᵀ`, or with a trained
gate above its A, so that the product with A, which every layer computes anyway, says how the input lies to
the expert.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
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


def affinity(product: Float[Tensor, "*tokens rank"]) -> Float[Tensor, "*tokens"]:
    """PHATGOOSE (arXiv:2402.05859, section 3): the gate, A's first row, times the input."""
    return product[..., 0]


@dataclass(frozen=True, kw_only=True)
class RouterKind:
    """How a router scores an expert."""

    score: Callable[[Tensor], Tensor]
    #: Experts that a token uses unless asked otherwise, as the authors do.
    top_k: int
    #: Whether experts have a gate of their own above A, else they are in singular form.
    is_gated: bool = False
    #: In singular form: whether the singular values are in A, else in B.
    values_in_down: bool = False
    #: Whether scores are of the standardised input: divided by its standard deviation over dimensions.
    is_standardised: bool = False
    #: Whether each expert's share is the sigmoid of its own score, as its gate is trained.
    is_alone: bool = False


#: As in a layer norm.
_LEAST_VARIANCE = 1e-5

ROUTERS: Mapping[str, RouterKind] = MappingProxyType(
    {
        "arrow": RouterKind(score=alignment, top_k=3),
        "spectr": RouterKind(score=response, top_k=3, values_in_down=True),
        "phatgoose": RouterKind(score=affinity, top_k=2, is_gated=True, is_standardised=True),
        "gate": RouterKind(score=affinity, top_k=1, is_gated=True, is_alone=True),
    }
)


@dataclass(frozen=True, kw_only=True)
class Router:
    """Softmax over the scores of a token's best experts in a layer, or the sigmoid of each."""

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
        self,
        products: Float[Tensor, "*tokens ranks"],
        stack: RoutedStack,
        x: Float[Tensor, "*tokens d_in"] | None,
    ) -> Float[Tensor, "*tokens ranks"]:
        """What each product of `x` is multiplied by: its expert's share of its layer, times its scale.

        Raises:
            ConfigInvalid: a gate is asked of an embedding, whose input are token ids.
        """
        kind = ROUTERS[self.kind]
        parts = products.split(stack.update_ranks, -1)
        scores = torch.stack([kind.score(part.float()) for part in parts], -1)
        if kind.is_standardised:
            if x is None:
                raise ConfigInvalid(
                    "router", "one that reads token ids, where embeddings are adapted", self.kind
                )
            variance = x.float().var(-1, correction=0, keepdim=True)
            scores = scores * (variance + _LEAST_VARIANCE).rsqrt()
        if kind.is_alone:
            alone: Tensor = (scores.sigmoid() * stack.scale).index_select(-1, stack.update)
            return alone
        shares = torch.cat([self._shares(layer) for layer in scores.split(stack.layer_updates, -1)], -1)
        gates: Tensor = (shares * stack.scale).index_select(-1, stack.update)
        return gates

    def _shares(self, scores: Float[Tensor, "*tokens expert"]) -> Float[Tensor, "*tokens expert"]:
        best = scores.topk(min(self.top_k, scores.shape[-1]), dim=-1)
        shares = (best.values / self.temperature).softmax(-1)
        return torch.zeros_like(scores).scatter(-1, best.indices, shares)


@dataclass(frozen=True, kw_only=True, eq=False)
class Routed:
    """A router in force, and the sequences of a batch that it weighs; the others have scalings."""

    router: Router
    #: None: all of them.
    sequences: Bool[Tensor, " batch"] | None = None

    def mixed(
        self, routed: Float[Tensor, "*tokens ranks"], scaled: Float[Tensor, "*tokens ranks"]
    ) -> Float[Tensor, "*tokens ranks"]:
        """The router's gates where it weighs a sequence, those of the scalings elsewhere."""
        if self.sequences is None:
            return routed
        sequences = self.sequences.to(routed.device)
        if routed.dim() == 2:  # some models flatten batch and sequence before a layer
            sequences = sequences.repeat_interleave(routed.shape[0] // len(sequences))
        mixed: Tensor = torch.where(sequences.view(-1, *[1] * (routed.dim() - 1)), routed, scaled)
        return mixed
