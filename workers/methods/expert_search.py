"""Which of many adapters to compose: ranked by what each knows of the data, before anything is trained.

An adapter is worth what it adds to those that are chosen already: the loss of the sample's answer tokens,
each under the best of the chosen. So a second adapter of the same knowledge adds nothing, however good it is
alone. What is chosen first adds most; the greedy choice is near the best one (Nemhauser et al. 1978).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workers.methods.expert_labelling import ExpertLosses
from workers.methods.mixing import Making, Parts
from workers.methods.xlora import drawn_for
from xlora_engine.config import XLoraConfig
from xlora_engine.merging.overlap import overlap
from xlora_engine.sources.adapter_weights import Expert

#: Training examples on which the candidates are compared.
SAMPLED = 64


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One candidate."""

    name: str
    #: Mean loss (nats a token) of the sample under it alone, and the base model's less that.
    loss: float
    gain: float
    #: Its place among the chosen, from 1; None: it was not chosen.
    place: int | None
    #: The sample's loss under the best of the chosen, once it is one of them, or would be the next.
    joint_loss: float
    #: The largest share of its input directions that one of the other chosen has, too.
    overlap: float


def choose_experts(making: Making) -> tuple[Making, list[dict[str, Any]]]:
    """The composition of the chosen candidates alone, and the ranking of all as JSON types."""
    count = making.spec.choose
    if count is None:
        return making, []
    with making.watch.phase("search"):
        losses, base = _losses(making)
        ranked = rank(losses, base, count=count, experts=making.read)
    chosen = sorted(
        (each for each in ranked if each.place is not None), key=lambda each: each.place or len(ranked)
    )
    return _only(making, [each.name for each in chosen]), [asdict(each) for each in ranked]


def rank(
    losses: Mapping[str, Float[Tensor, " token"]],
    base: Float[Tensor, " token"],
    *,
    count: int,
    experts: Sequence[Expert],
) -> list[Ranked]:
    """All candidates, the chosen first in the order of their choice, the others by what they would add."""
    joint = torch.full_like(base, torch.inf)
    chosen: dict[str, float] = {}
    while len(chosen) < min(count, len(losses)):
        left = {name: each for name, each in losses.items() if name not in chosen}
        best = min(left, key=lambda name: float(torch.minimum(joint, left[name]).mean()))
        joint = torch.minimum(joint, losses[best])
        chosen[best] = float(joint.mean())
    would_add = {
        name: float(torch.minimum(joint, each).mean()) for name, each in losses.items() if name not in chosen
    }
    by_name = {expert.name: expert for expert in experts}
    return [
        Ranked(
            name=name,
            loss=float(losses[name].mean()),
            gain=float((base - losses[name]).mean()),
            place=list(chosen).index(name) + 1 if name in chosen else None,
            joint_loss=joint_loss,
            overlap=max((overlap(by_name[name], by_name[o]) for o in chosen if o != name), default=0.0),
        )
        for name, joint_loss in (*chosen.items(), *sorted(would_add.items(), key=lambda item: item[1]))
    ]


def was_right(ranking: Sequence[Mapping[str, Any]], without: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What leaving each expert out says of the ranking, as sentences; `without` is of the report."""
    chosen = [row["name"] for row in ranking if row["place"] is not None]
    costs = {
        name: sum(task["change"]["loss"]["mean"] for task in by_task.values()) / len(by_task)
        for name, by_task in without.items()
        if by_task
    }
    if len(chosen) < 2 or set(costs) != set(chosen):
        return []
    order = sorted(chosen, key=lambda name: -costs[name])
    pairs = [(a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]]
    agreed = sum(costs[a] >= costs[b] for a, b in pairs)
    listed = ", ".join(f"{name} {costs[name]:+.3f}" for name in order)
    said = f"ranked before training: {', '.join(chosen)}; leaving each out afterwards costs {listed}:"
    return [f"{said} {agreed} of {len(pairs)} pairs are in the order of the ranking"]


def _losses(making: Making) -> tuple[dict[str, Tensor], Tensor]:
    """The loss of every token of the sample's answers, under each candidate alone and under the base."""
    model = making.with_experts(XLoraConfig())
    try:
        drawn = drawn_for(making, model)
        stride = -(-len(drawn.train) // SAMPLED)
        sample = [drawn.encoded[index] for index in drawn.train[::stride]]
        losses = ExpertLosses(making, model, total=len(sample) * (len(making.parts.adapters) + 1))
        by_name = {
            adapter.name: torch.cat(losses.of_expert(sample, position))
            for position, adapter in enumerate(making.parts.adapters)
        }
        return by_name, torch.cat(losses.of_base(sample))
    finally:
        model.unload()


def _only(making: Making, names: Sequence[str]) -> Making:
    """The same with these adapters alone, in this order."""
    by_name = {adapter.name: adapter for adapter in making.parts.adapters}
    position_of = {name: position for position, name in enumerate(names)}
    domains = {
        domain: position_of[making.parts.adapters[position].name]
        for domain, position in making.parts.domains.items()
        if making.parts.adapters[position].name in position_of
    }
    read = {expert.name: expert for expert in making.read}
    spec = making.spec
    return replace(
        making,
        parts=Parts(base=making.parts.base, adapters=tuple(by_name[name] for name in names), domains=domains),
        spec=replace(
            spec,
            adapters=tuple(by_name[name].reference for name in names),
            data={domain: name for domain, name in spec.data.items() if domain in domains},
            eval_data={domain: name for domain, name in spec.eval_data.items() if domain in domains},
            choose=None,
        ),
        read=[read[name] for name in names],
    )
