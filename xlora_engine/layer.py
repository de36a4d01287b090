"""One wrapped layer of the base model: the untouched layer plus every expert's low-rank update, stacked.

Knows nothing of the scaling head: scalings reach it through a `ScalingContext`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from xlora_engine.adapter_weights import LowRank, stacked

#: Above this many values, gates are spread over the ranks layer by layer instead of all at once.
SPREAD_AT_ONCE_LIMIT = 1 << 24


@dataclass(frozen=True, eq=False)
class _InForce:
    """Scalings, and what they come to for each kind of layer, computed at its first use."""

    scalings: Float[Tensor, "batch seq layer expert"] | None = None
    gates: dict[tuple[object, ...], tuple[Tensor, ...]] = field(default_factory=dict)


class ScalingContext:
    """The scalings in force, shared by all wrapped layers of one model; empty, experts are silent."""

    def __init__(self, *, spread_at_once_limit: int = SPREAD_AT_ONCE_LIMIT) -> None:
        self._spread_at_once_limit = spread_at_once_limit
        self._now = _InForce()

    @property
    def scalings(self) -> Float[Tensor, "batch seq layer expert"] | None:
        """What is in force now."""
        return self._now.scalings

    def using(self, scalings: Float[Tensor, "batch seq layer expert"] | None) -> AbstractContextManager[None]:
        """Put scalings in force for the calls made inside; None silences the experts."""
        return self._holding(_InForce(scalings))

    def reinstating(self) -> AbstractContextManager[None]:
        """Puts what is in force at this moment in force again, whenever and as often as it is entered."""
        return _Reinstating(self._holding, self._now)

    def rank_gates(
        self, layer: int, spread: Float[Tensor, "expert ranks"], key: tuple[object, ...]
    ) -> Float[Tensor, "batch seq ranks"]:
        """Each expert's scaling of this layer, repeated over its ranks and multiplied by its scale.

        Layers with the same experts of the same ranks share `key`, hence one product for all of them.
        """
        if self._now.scalings is None:
            raise LookupError("no scalings are in force")
        scalings = self._now.scalings.to(device=spread.device, dtype=spread.dtype)
        index = layer if scalings.shape[2] > 1 else 0
        if scalings.numel() // scalings.shape[3] * spread.shape[1] > self._spread_at_once_limit:
            return scalings[:, :, index] @ spread
        gates = self._now.gates
        if key not in gates:
            # unbind, not indexing: its backward is one stack instead of one full-size tensor a layer.
            gates[key] = (scalings @ spread).unbind(2)
        return gates[key][index]

    @contextmanager
    def _holding(self, state: _InForce) -> Iterator[None]:
        outer, self._now = self._now, state
        try:
            yield
        finally:
            self._now = outer


class _Reinstating(AbstractContextManager[None]):
    """Enters a state as it was when this was made: a recomputed layer must find just the same gates ready."""

    def __init__(self, holding: Callable[[_InForce], AbstractContextManager[None]], state: _InForce) -> None:
        self._holding = holding
        self._scalings, self._gates = state.scalings, dict(state.gates)
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(self._holding(_InForce(self._scalings, dict(self._gates))))
        self._entered[-1].__enter__()

    def __exit__(self, *exc: Any) -> None:
        self._entered.pop().__exit__(*exc)


class MixtureLayer(nn.Module):
    """`y = W x + g · Σ_i s_i λ_i · B_i A_i x` (arXiv:2402.07148), for one target module.

    `W` is whatever module the base model has there, called as it is: Linear, Conv1D, quantised, …
    The updates of all experts are one product down to the sum of their ranks, one product by the
    gates, one product up; the gate of a rank is its expert's scaling times its scale and `g`.
    An expert that does not touch this module has no ranks here; a share it is given is lost.
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
        """`updates` maps an expert's position among all `experts` to its update of this module."""
        super().__init__()
        self.base = base
        self.layer = layer
        self.context = context
        self.ranks = {position: update.rank for position, update in updates.items()}
        self.key = (*((p, u.rank, u.scale) for p, u in updates.items()), dtype, device)
        down, up = stacked(updates, dtype=dtype, device=device)
        self.down = nn.Parameter(down, requires_grad=False)
        self.up = nn.Parameter(up, requires_grad=False)
        spread = _spread(updates, experts, global_weight).to(device=device, dtype=dtype)
        self.register_buffer("spread", spread, persistent=False)
        self.spread: Tensor

    @property
    def weight(self) -> Tensor | nn.Module:
        """The base layer's weight: some models look at it for a dtype."""
        return self.base.weight

    def forward(self, x: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "*tokens d_out"]:
        """The base layer's output, plus the experts' where scalings are in force."""
        out: Tensor = self.base(x)
        if self.context.scalings is None:
            return out
        inner = F.linear(x.to(self.down.dtype), self.down)
        inner = inner * _fit(self.context.rank_gates(self.layer, self.spread, self.key), inner)
        return out + F.linear(inner, self.up).to(out.dtype)

    def update_of(self, position: int) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
        """One expert's A and B as they stand in the stack."""
        start = sum(rank for other, rank in self.ranks.items() if other < position)
        rows = slice(start, start + self.ranks[position])
        return self.down[rows], self.up[:, rows]


class MixtureEmbedding(MixtureLayer):
    """The same for an embedding: `A` has a column for each token of the vocabulary.

    Some models scale their embeddings (Gemma 3); the experts' share is scaled alike, as PEFT does
    since 0.18 (huggingface/peft#2830).
    """

    def forward(self, x: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_out"]:
        """The base embedding of token ids, plus the experts' where scalings are in force."""
        out: Tensor = self.base(x)
        if self.context.scalings is None:
            return out
        inner = F.embedding(x, self.down.T)
        inner = inner * _fit(self.context.rank_gates(self.layer, self.spread, self.key), inner)
        added = F.linear(inner, self.up)
        embed_scale = getattr(self.base, "embed_scale", None)
        return out + (added if embed_scale is None else added * embed_scale).to(out.dtype)


def _spread(
    updates: Mapping[int, LowRank], experts: int, global_weight: float
) -> Float[Tensor, "expert ranks"]:
    """Maps scalings to gates: row i holds expert i's scale at its own ranks, 0 elsewhere."""
    rows = torch.zeros(experts, sum(update.rank for update in updates.values()))
    start = 0
    for position, update in updates.items():
        rows[position, start : start + update.rank] = update.scale * global_weight
        start += update.rank
    return rows


def _fit(gates: Float[Tensor, "batch seq ranks"], inner: Tensor) -> Tensor:
    """Gates in the layout of a layer's input.

    Some models flatten batch and sequence before a layer, and the language-model head may be given
    a sequence's last tokens alone.
    """
    if inner.dim() == 2:
        return gates.flatten(0, 1)
    return gates if gates.shape[1] == 1 else gates[:, -inner.shape[1] :]
