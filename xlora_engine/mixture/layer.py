"""One wrapped layer of the base model: the untouched layer plus every expert's low-rank update, stacked.

Knows nothing of the scaling head: scalings reach it through a `ScalingContext`.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlora_engine.devices.product_dtype import factor_for
from xlora_engine.mixture.scaling_context import ScalingContext
from xlora_engine.mixture.shared_down import SharedDown, siblings
from xlora_engine.sources.adapter_weights import LowRank, stacked


def expert_dtype(base_dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What experts compute in: as the base model does, but in float32 at least on a CPU.

    Their products are small: there a bfloat16 one took four times as long as a float32 one in
    measurements, most of it the call. PEFT keeps experts in float32 everywhere.
    """
    return torch.promote_types(base_dtype, torch.float32) if device.type == "cpu" else base_dtype


class MixtureLayer(nn.Module):
    """`y = W x + g · Σ_i s_i λ_i · B_i A_i x` (arXiv:2402.07148), for one target module.

    `W` is the base model's own module, called unchanged: Linear, Conv1D, quantised, …
    The updates of all experts are one product down to the sum of their ranks, one product with the
    gates, one product up; the gate of a rank is its expert's scaling times its scale and `g`.
    An expert that does not adapt this module has no ranks here; its share has no effect.
    """

    def __init__(
        self,
        base: nn.Module,
        updates: Mapping[int, LowRank],
        *,
        layer: int,
        experts: int,
        context: ScalingContext,
        global_weight: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`updates` maps an expert's index among all `experts` to its update of this module."""
        super().__init__()
        self.base = base
        self.context = context
        self.ranks = {index: update.rank for index, update in updates.items()}
        down, up = stacked(updates, dtype=dtype, device=device)
        self.down = SharedDown.of_layer(
            down, updates, layer=layer, experts=experts, global_weight=global_weight, context=context
        )
        #: This layer's index among those that share `down`.
        self.member = 0
        self.up = nn.Parameter(up, requires_grad=False)

    @property
    def weight(self) -> Tensor | nn.Module:
        """The base layer's weight: some models read its dtype."""
        return self.base.weight

    def forward(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_out"]:
        """The base layer's output, plus the experts' if any are in force."""
        out: Tensor = self.base(x)
        if not self.context.is_active:
            return out
        inner, up = self.down(x, self.member), factor_for(self.up, x)
        if up.dtype != inner.dtype:
            up = self.up  # A is trained, and kept its dtype
        if up is not self.up and up.dtype == out.dtype:
            added: Tensor = torch.addmm(out.flatten(0, -2), inner.flatten(0, -2), up.T)
            return added.view(out.shape)
        # Cast, then add: an addition of two dtypes is several times as slow.
        return out + F.linear(inner, up).to(out.dtype)

    def update_of(self, index: int) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
        """One expert's A and B: views of the stacks."""
        start = sum(rank for other, rank in self.ranks.items() if other < index)
        rows = slice(start, start + self.ranks[index])
        return self.down.of_member(self.member)[rows], self.up[:, rows]

    def share_down(self, down: SharedDown, member: int) -> None:
        """Take A from a stack shared with other layers."""
        self.down, self.member = down, member


class MixtureEmbedding(MixtureLayer):
    """The same for an embedding: `A` has a column for each token of the vocabulary.

    Some models scale their embeddings (Gemma 3); the experts' contribution is scaled too, as PEFT does
    since 0.18 (huggingface/peft#2830).
    """

    def forward(self, x: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_out"]:
        """The base embedding of token ids, plus the experts' if any are in force."""
        out: Tensor = self.base(x)
        if not self.context.is_active:
            return out
        added = F.linear(self.down.lookup(x), self.up)
        embed_scale = getattr(self.base, "embed_scale", None)
        return out + (added if embed_scale is None else added * embed_scale).to(out.dtype)


def share_inputs(layers: Mapping[str, MixtureLayer]) -> None:
    """Make layers that are called with the same input share one product; keys are module paths.

    Fewer, larger products: with one token a step, the calls are most of their cost.
    """
    plain = [path for path, layer in layers.items() if not isinstance(layer, MixtureEmbedding)]
    for together in siblings(plain):
        stacks = [layers[path].down for path in together]
        if len({(stack.weight.shape[1], stack.weight.device, stack.weight.dtype) for stack in stacks}) == 1:
            shared = SharedDown.merged(stacks)
            for member, path in enumerate(together):
                layers[path].share_down(shared, member)
