"""The scalings or router in force in a forward pass, and the gates computed from scalings for each stack."""

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
from xlora_engine.mixture.routers import Routed

#: Above this many values, gates are spread over the ranks stack by stack instead of all at once.
SPREAD_AT_ONCE_LIMIT = 1 << 24


class Stack(Protocol):
    """Several experts' A of one or more layers, stacked; an update is one expert's of one layer."""

    ranks: int
    #: The rank of each update; updates are in the order of their rows in `weight`.
    update_ranks: tuple[int, ...]

    @property
    def weight(self) -> Float[Tensor, "ranks d_in"]:
        """The experts' A."""

    @property
    def update(self) -> Int[Tensor, " ranks"]:
        """The index of the update that each row of `weight` belongs to."""

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
    """Scalings, and the gates and products computed from them."""

    scalings: Float[Tensor, "batch seq layer expert"] | None = None
    routed: Routed | None = None
    gates: dict[Stack, Tensor] = field(default_factory=dict)
    pending: dict[Stack, PendingProducts] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Spread:
    """How scalings, flat over layer and expert, are repeated over the ranks of several stacks."""

    stacks: tuple[Stack, ...]
    ranks: int
    #: The rank of every update (one expert's of one layer); None: they differ.
    ranks_each: int | None
    #: The index of the update that each rank belongs to.
    update: Int[Tensor, " ranks"]
    #: The index of each update's scaling: if every layer has its own, and if all layers share one.
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
        """The gates of each stack."""
        source = self.layerwise if scalings.shape[2] > 1 else self.shared
        # Along the last dimension of a matrix: with three dimensions it takes twenty times as long on a CPU.
        flat = scalings.flatten(2).flatten(0, 1).to(source.device)
        spread = self._over_ranks(flat.index_select(1, source).mul(self.scale).to(dtype))
        every: Tensor = spread.unflatten(0, scalings.shape[:2])
        # split, not slices: its backward is one concatenation instead of one full-size tensor for each stack.
        gates: tuple[Tensor, ...] = every.split([stack.ranks for stack in self.stacks], 2)
        return gates

    def _over_ranks(self, shares: Float[Tensor, "tokens update"]) -> Float[Tensor, "tokens ranks"]:
        if self.ranks_each is None:
            return shares.index_select(1, self.update)
        # An expanded copy, whose gradient is a sum, takes half the time of an index_select.
        return shares.unsqueeze(-1).expand(-1, -1, self.ranks_each).flatten(1)


def fitted(
    scalings: Float[Tensor, "#batch #seq #layer expert"],
    *,
    layers: int,
    experts: int,
    tokens: tuple[int, int] | None = None,
) -> Float[Tensor, "batch seq #layer expert"]:
    """Scalings checked for these numbers of layers and experts, and expanded to a batch of `tokens`.

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
        raise ConfigInvalid("scalings", f"for 1 or {tokens[0]} sequences of 1 or {tokens[1]} tokens", found)
    # Some layers get all tokens in one dimension, where a length of 1 could be a sequence or a token.
    return scalings.expand(*tokens, -1, -1)


class _Here(threading.local):
    """The scalings in force in one thread: each runs its own prompt, or recomputes a block."""

    def __init__(self) -> None:
        self.now = _InForce()


class ScalingContext:
    """The scalings in force, shared by all wrapped layers of one model; without any, experts add nothing.

    Each thread has its own, so that several threads may use one model at once, as with a plain one.
    """

    def __init__(self, *, spread_at_once_limit: int = SPREAD_AT_ONCE_LIMIT) -> None:
        self._spread_at_once_limit = spread_at_once_limit
        self._here = _Here()
        self._stacks: list[Stack] = []
        self._spreads: dict[tuple[torch.device, torch.dtype], _Spread] = {}

    @property
    def scalings(self) -> Float[Tensor, "batch seq layer expert"] | None:
        """The scalings in force now."""
        return self._here.now.scalings

    @property
    def routed(self) -> Routed | None:
        """What weighs the experts by each layer's input, instead of scalings or beside them."""
        return self._here.now.routed

    @property
    def is_active(self) -> bool:
        """Whether experts add anything."""
        return self._here.now.scalings is not None or self._here.now.routed is not None

    @property
    def pending(self) -> dict[Stack, PendingProducts]:
        """Products computed with the scalings in force; they are dropped when those are."""
        return self._here.now.pending

    def using(
        self, scalings: Float[Tensor, "batch seq layer expert"] | None, *, routed: Routed | None = None
    ) -> AbstractContextManager[None]:
        """Put scalings or a router in force for the calls made inside; with neither experts add nothing.

        With both, the router weighs some sequences of the batch and the scalings the others.
        """
        return self._holding(_InForce(scalings, routed))

    def reinstating(self) -> AbstractContextManager[None]:
        """A context that puts the present scalings in force again each time it is entered."""
        return _Reinstating(self._holding, self._here.now)

    def register(self, new: Stack, *, replacing: Iterable[Stack] = ()) -> None:
        """Spread scalings over the ranks of `new` too, and no longer over the stacks it replaces."""
        gone = set(replacing)
        self._stacks = [stack for stack in self._stacks if stack not in gone] + [new]
        self._spreads.clear()

    def rank_gates(self, stack: Stack) -> Float[Tensor, "batch seq ranks"]:
        """Each expert's scaling of each layer of a stack, repeated over its ranks and times its scale.

        The gates of all stacks are computed at first use by one product, if that is not too large.
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
        key = (stack.weight.device, stack.weight.dtype)
        if key not in self._spreads:
            stacks = [s for s in self._stacks if (s.weight.device, s.weight.dtype) == key]
            # Kept for later passes, and autograd refuses tensors that were made in inference mode.
            with torch.inference_mode(False):
                self._spreads[key] = _Spread.over(stacks)
        everything = self._spreads[key]
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
        """A copied or unpickled model has no scalings in force."""
        return {name: value for name, value in self.__dict__.items() if name != "_here"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _here=_Here())


class _Reinstating(AbstractContextManager[None]):
    """Restores the state at its creation: a recomputed layer must find exactly the same gates."""

    def __init__(self, holding: Callable[[_InForce], AbstractContextManager[None]], state: _InForce) -> None:
        self._holding = holding
        self._scalings, self._routed, self._gates = state.scalings, state.routed, dict(state.gates)
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(self._holding(_InForce(self._scalings, self._routed, dict(self._gates))))
        self._entered[-1].__enter__()

    def __exit__(self, *exc: Any) -> None:
        self._entered.pop().__exit__(*exc)
