"""All experts' A of the layers that get the same input, stacked: one product for all of them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlora_engine.devices.full_precision import in_full_precision
from xlora_engine.devices.product_dtype import factor_for
from xlora_engine.errors import BaseUnsupported
from xlora_engine.mixture.scaling_context import PendingProducts, ScalingContext
from xlora_engine.sources.adapter_weights import LowRank

#: Layers of one parent that are called with the same tensor, by their names in the architectures. If one of
#: them gets another tensor it is only slower: a product is shared only if the input is the same object.
SHARING = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"), ("query", "key", "value"))


class SharedDown(nn.Module):
    """`λ_i s_i · A_i x` of every expert i, for one or several layers, their ranks stacked.

    The first layer that is called with an input computes the product for all; the others fetch theirs.
    """

    def __init__(
        self,
        weight: Float[Tensor, "ranks d_in"],
        *,
        sizes: Sequence[int],
        update_ranks: Sequence[int],
        layerwise_source: Int[Tensor, " update"],
        shared_source: Int[Tensor, " update"],
        scale: Float[Tensor, " update"],
        context: ScalingContext,
    ) -> None:
        """`sizes` are each layer's ranks; a source is a scaling's index, flat over layer and expert.

        An update is one expert's of one layer; updates are in the order of their ranks.
        """
        super().__init__()
        self.context = context
        self.sizes = tuple(sizes)
        self.update_ranks = tuple(update_ranks)
        #: Number of updates of each layer.
        self.layer_updates = _counts(update_ranks, sizes)
        self.ranks = sum(sizes)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.layerwise_source: Tensor
        self.shared_source: Tensor
        self.scale: Tensor
        #: The index of the update that each rank belongs to.
        self.update: Tensor
        update = torch.arange(len(update_ranks)).repeat_interleave(torch.tensor(update_ranks))
        self.register_buffer("update", update.to(weight.device), persistent=False)
        self.register_buffer("layerwise_source", layerwise_source.to(weight.device), persistent=False)
        self.register_buffer("shared_source", shared_source.to(weight.device), persistent=False)
        self.register_buffer("scale", scale.to(weight.device), persistent=False)

    @classmethod
    def of_layer(
        cls,
        weight: Float[Tensor, "ranks d_in"],
        updates: Mapping[int, LowRank],
        *,
        layer: int,
        experts: int,
        global_weight: float,
        context: ScalingContext,
    ) -> Self:
        """The stack of one layer; `weight` holds the A of `updates` in order."""
        ranks = [update.rank for update in updates.values()]
        expert = torch.tensor(list(updates))
        made = cls(
            weight,
            sizes=[sum(ranks)],
            update_ranks=ranks,
            layerwise_source=layer * experts + expert,
            shared_source=expert,
            scale=torch.tensor([update.scale * global_weight for update in updates.values()]),
            context=context,
        )
        context.register(made)
        return made

    @classmethod
    def merged(cls, parts: Sequence["SharedDown"]) -> "SharedDown":
        """One stack that replaces several, in their order."""
        made = cls(
            torch.cat([part.weight.detach() for part in parts]),
            sizes=[size for part in parts for size in part.sizes],
            update_ranks=[rank for part in parts for rank in part.update_ranks],
            layerwise_source=torch.cat([part.layerwise_source for part in parts]),
            shared_source=torch.cat([part.shared_source for part in parts]),
            scale=torch.cat([part.scale for part in parts]),
            context=parts[0].context,
        )
        parts[0].context.register(made, replacing=parts)
        return made

    def forward(self, x: Float[Tensor, "*tokens d_in"], member: int) -> Float[Tensor, "*tokens ranks"]:
        """The gated product for one of the layers."""
        if len(self.sizes) == 1:
            return self._gated_product(x)
        pending = self.context.pending
        kept = pending.get(self)
        if kept is not None and kept.x is x and member in kept.products:
            if len(kept.products) == 1:
                del pending[self]
            return kept.products.pop(member)
        products: dict[int, Tensor] = dict(enumerate(self._gated_product(x).split(self.sizes, -1)))
        pending[self] = PendingProducts(x, products)
        return products.pop(member)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scale = in_full_precision(scale, self.scale)
        return self

    def lookup(self, token_ids: Int[Tensor, "*tokens"]) -> Float[Tensor, "*tokens ranks"]:
        """The same for an embedding, whose `A` has a column for each token of the vocabulary."""
        return self._gated(F.embedding(token_ids, self.weight.T), None)

    def of_member(self, member: int) -> Float[Tensor, "ranks d_in"]:
        """One layer's part of the stack."""
        part: Tensor = self.weight.split(self.sizes)[member]
        return part

    def _gated_product(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens ranks"]:
        weight = factor_for(self.weight, x)
        # Gates stay in their dtype until they have acted: bfloat16 would round a share to 1/256.
        return self._gated(F.linear(x.to(weight.dtype), weight), x).to(weight.dtype)

    def _gated(
        self, inner: Float[Tensor, "*tokens ranks"], x: Float[Tensor, "*tokens d_in"] | None
    ) -> Float[Tensor, "*tokens ranks"]:
        gated: Tensor = inner * self._gates(inner, x)
        return gated

    def _gates(self, inner: Tensor, x: Tensor | None) -> Float[Tensor, "#*tokens ranks"]:
        routed = self.context.routed
        if routed is None:
            return _fit(self.context.rank_gates(self), inner)
        gates = routed.router.gates(inner, self, x)
        if self.context.scalings is None:
            return gates
        return routed.mixed(gates, _fit(self.context.rank_gates(self), inner))


def siblings(paths: Sequence[str]) -> list[list[str]]:
    """The module paths that are called with the same input, in groups."""
    known = set(paths)
    found = []
    for path in paths:
        parent, _, name = path.rpartition(".")
        for names in SHARING:
            together = [f"{parent}.{other}" for other in names if f"{parent}.{other}" in known]
            if name in names and together[0] == path and len(together) > 1:
                found.append(together)
    return found


def _counts(update_ranks: Sequence[int], sizes: Sequence[int]) -> tuple[int, ...]:
    """How many of the updates, in order, make up each layer's ranks."""
    ends = list(accumulate(update_ranks))
    counted = [ends.index(end) + 1 for end in accumulate(sizes)]
    return tuple(end - start for start, end in pairwise([0, *counted]))


def _fit(gates: Float[Tensor, "batch seq ranks"], inner: Tensor) -> Tensor:
    """Gates in the layout of a layer's input.

    Some models flatten batch and sequence before a layer, and the language-model head may get only
    a sequence's last tokens.

    Raises:
        BaseUnsupported: a layer gets only some of the tokens, and it is not known which.
    """
    if inner.dim() == 2:
        flat = gates.flatten(0, 1)
        if flat.shape[0] not in (1, inner.shape[0]):
            raise BaseUnsupported(
                f"an adapted layer gets {inner.shape[0]} of {flat.shape[0]} tokens, as the experts of a "
                "mixture-of-experts base do; use adapters of layers that get all tokens"
            )
        return flat
    tokens = inner.shape[-2]
    fitting = gates if gates.shape[1] in (1, tokens) else gates[:, -tokens:]
    # Latent attention gives its layers a dimension of heads, of which there is one.
    return fitting.unsqueeze(1) if inner.dim() == 4 else fitting
