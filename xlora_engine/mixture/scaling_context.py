"""The scalings in force during a forward, and the gates they come to for every stack of experts."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlora_engine.errors import ConfigInvalid

#: Above this many values, gates are spread over the ranks stack by stack instead of all at once.
SPREAD_AT_ONCE_LIMIT = 1 << 24


class Stack(Protocol):
    """Several experts' A of one or more layers, stacked; an update is one expert's of one layer."""

    ranks: int
    #: The rank of each update; updates follow each other as their rows do.
    update_ranks: tuple[int, ...]

    @property
    def weight(self) -> Float[Tensor, "ranks d_in"]:
        """The experts' A."""

    @property
    def update(self) -> Int[Tensor, " ranks"]:
        """The index of the update that each row belongs to."""

    @property
    def layerwise_source(self) -> Int[Tensor, " update"]:
        """The index of each update's scaling, flat over layer and expert."""

    @property
    def shared_source(self) -> Int[Tensor, " update"]:
        """The same where all layers share one set of scalings: the index of the expert."""

    @property
    def scale(self) -> Float[Tensor, " update"]:
        """What each update's scaling is multiplied by."""


@dataclass(frozen=True, eq=False)
class PendingProducts:
    """Gated products of one input that sibling layers have not taken yet, by their index in the stack."""

    x: Tensor
    products: dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class _InForce:
    """Scalings, and what was computed from them."""

    scalings: Float[Tensor, "batch seq layer expert"] | None = None
    gates: dict[Stack, Tensor] = field(default_factory=dict)
    pending: dict[Stack, PendingProducts] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Spread:
    """How scalings, flat over layers and experts, are laid over the ranks of several stacks."""

    stacks: tuple[Stack, ...]
    ranks: int
    #: Of each update (one expert's of one layer), how many ranks; None: not all have as many.
    ranks_each: int | None
    #: Which update each rank is of.
    update: Int[Tensor, " ranks"]
    #: Which scaling each takes, where every layer has its own and where all share one.
    layerwise: Int[Tensor, " update"]
    shared: Int[Tensor, " update"]
    scale: Float[Tensor, " update"]

    @classmethod
    def over(cls, stacks: Iterable[Stack]) -> "_Spread":
        stacks = tuple(stacks)
        ranks = [rank for stack in stacks for rank in stack.update_ranks]
        before = accumulate((len(stack.update_ranks) for stack in stacks), initial=0)
        return cls(
            stacks=stacks,
            ranks=sum(ranks),
            ranks_each=ranks[0] if len(set(ranks)) == 1 else None,
            update=torch.cat([stack.update + count for stack, count in zip(stacks, before, strict=False)]),
            layerwise=torch.cat([stack.layerwise_source for stack in stacks]),
            shared=torch.cat([stack.shared_source for stack in stacks]),
            scale=torch.cat([stack.scale for stack in stacks]),
        )

    def gates(
        self, scalings: Float[Tensor, "batch seq layer expert"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "batch seq ranks"], ...]:
        """Those of each stack."""
        source = self.layerwise if scalings.shape[2] > 1 else self.shared
        # Along the last dimension of a matrix: of three dimensions it takes twenty times as long on a CPU.
        flat = scalings.flatten(2).flatten(0, 1).to(source.device)
        spread = self._over_ranks(flat.index_select(1, source).mul(self.scale).to(dtype))
        every: Tensor = spread.unflatten(0, scalings.shape[:2])
        # split, not slices: its backward is one concatenation instead of one full-size tensor a stack.
        gates: tuple[Tensor, ...] = every.split([stack.ranks for stack in self.stacks], 2)
        return gates

    def _over_ranks(self, shares: Float[Tensor, "tokens update"]) -> Float[Tensor, "tokens ranks"]:
        if self.ranks_each is None:
            return shares.index_select(1, self.update)
        # A copy, and for its gradient a sum: half the time of picking.
        return shares.unsqueeze(-1).expand(-1, -1, self.ranks_each).flatten(1)


def fitted(
    scalings: Float[Tensor, "#batch #seq #layer expert"],
    *,
    layers: int,
    experts: int,
    tokens: tuple[int, int] | None = None,
) -> Float[Tensor, "batch seq #layer expert"]:
    """Scalings of so many layers and experts, spelt out for a batch of `tokens` unless one is for all.

    Raises:
        ConfigInvalid: they are for other layers, experts or tokens; some would weigh the wrong ones.
    """
    found = tuple(scalings.shape)
    if len(found) != 4 or found[2] not in (1, layers) or found[3] != experts:
        raise ConfigInvalid(
            "scalings", f"[batch seq layer expert] of 1 or {layers} layers and {experts} experts", found
        )
    if tokens is None or found[:2] in ((1, 1), tokens):
        return scalings
    if any(n not in (1, wanted) for n, wanted in zip(found, tokens, strict=False)):
        raise ConfigInvalid("scalings", f"for 1 or {tokens[0]} rows of 1 or {tokens[1]} tokens", found)
    # Some layers are given all tokens in one row, where a length of 1 could be a row or a token.
    return scalings.expand(*tokens, -1, -1)


class _Here(threading.local):
    """What is in force in a thread: each answers a prompt of its own, or recomputes a block."""

    def __init__(self) -> None:
        self.now = _InForce()


class ScalingContext:
    """The scalings in force, shared by all wrapped layers of one model; empty, experts are silent.

    Each thread has its own, so that several may use one model at once, as they may a plain one.
    """

    def __init__(self, *, spread_at_once_limit: int = SPREAD_AT_ONCE_LIMIT) -> None:
        self._spread_at_once_limit = spread_at_once_limit
        self._here = _Here()
        self._stacks: list[Stack] = []
        self._spreads: dict[tuple[torch.device, torch.dtype], _Spread] = {}

    @property
    def scalings(self) -> Float[Tensor, "batch seq layer expert"] | None:
        """What is in force now."""
        return self._here.now.scalings

    @property
    def pending(self) -> dict[Stack, PendingProducts]:
        """Products computed with the scalings in force; they are dropped when those are."""
        return self._here.now.pending

    def using(self, scalings: Float[Tensor, "batch seq layer expert"] | None) -> AbstractContextManager[None]:
        """Put scalings in force for the calls made inside; None silences the experts."""
        return self._holding(_InForce(scalings))

    def reinstating(self) -> AbstractContextManager[None]:
        """Puts what is in force at this moment in force again, whenever and as often as it is entered."""
        return _Reinstating(self._holding, self._here.now)

    def register(self, new: Stack, *, instead_of: Iterable[Stack] = ()) -> None:
        """Spread scalings over the ranks of `new` too, and no longer over those it stands for."""
        gone = set(instead_of)
        self._stacks = [stack for stack in self._stacks if stack not in gone] + [new]
        self._spreads.clear()

    def rank_gates(self, stack: Stack) -> Float[Tensor, "batch seq ranks"]:
        """Each expert's scaling of each layer of a stack, repeated over its ranks and times its scale.

        Those of all stacks are computed by one product at first use, where that is not too large.
        """
        gates = self._here.now.gates
        if stack not in gates:
            if self._here.now.scalings is None:
                raise LookupError("no scalings are in force")
            spread = self._spread(stack, self._here.now.scalings)
            gated = spread.gates(self._here.now.scalings, stack.weight.dtype)
            if len(gated) == 1:
                return gated[0]
            gates.update(zip(spread.stacks, gated, strict=True))
        return gates[stack]

    def _spread(self, stack: Stack, scalings: Float[Tensor, "batch seq layer expert"]) -> _Spread:
        place = (stack.weight.device, stack.weight.dtype)
        if place not in self._spreads:
            alike = [s for s in self._stacks if (s.weight.device, s.weight.dtype) == place]
            # Kept for later passes: autograd takes no tensor that was made in inference mode.
            with torch.inference_mode(False):
                self._spreads[place] = _Spread.over(alike)
        everything = self._spreads[place]
        tokens = scalings.shape[0] * scalings.shape[1]
        if tokens * everything.ranks > self._spread_at_once_limit:
            return _Spread.over([stack])
        return everything

    @contextmanager
    def _holding(self, state: _InForce) -> Iterator[None]:
        here = self._here
        outer, here.now = here.now, state
        try:
            yield
        finally:
            here.now = outer

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a model, or one from a file, has nothing in force."""
        return {name: value for name, value in self.__dict__.items() if name != "_here"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _here=_Here())


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
