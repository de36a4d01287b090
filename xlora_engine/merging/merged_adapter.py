"""Experts merged into one adapter, module by module, and the configuration that PEFT reads it by."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce

import torch

from xlora_engine.errors import ConfigInvalid
from xlora_engine.merging.factors import Factors
from xlora_engine.merging.rules import RULES, MergeSettings, Rule
from xlora_engine.sources.adapter_weights import Expert, LowRank


def merged(
    experts: Sequence[Expert],
    *,
    name: str,
    rule: str,
    settings: MergeSettings,
    modules: Collection[str],
    seed: int,
) -> Expert:
    """One adapter that stands for all experts, stored in the widest of their dtypes.

    `modules` are the paths of all modules of the base model: a name that ends the paths of merged modules
    alone is a target module, any other target is a path.

    Raises:
        ConfigInvalid: there is no such rule.
    """
    if rule not in RULES:
        raise ConfigInvalid("rule", f"one of {', '.join(RULES)}", rule)
    with _seeded(seed):
        updates = {path: _merged_at(path, experts, RULES[rule], settings) for path in _paths(experts)}
    return Expert(name=name, config=config_of(updates, modules), updates=updates)


def _paths(experts: Sequence[Expert]) -> list[str]:
    """Modules that any expert changes, in the experts' own order."""
    return list(dict.fromkeys(path for expert in experts for path in expert.updates))


def _merged_at(path: str, experts: Sequence[Expert], rule: Rule, settings: MergeSettings) -> LowRank:
    updates = [expert.updates[path] for expert in experts if path in expert.updates]
    found = rule([Factors.of(update) for update in updates], settings).times(settings.scale)
    dtype = reduce(torch.promote_types, (update.A.dtype for update in updates))
    return LowRank(A=found.A.to(dtype), B=found.B.to(dtype), scale=1.0, is_embedding=updates[0].is_embedding)


def config_of(updates: Mapping[str, LowRank], modules: Collection[str]) -> dict[str, object]:
    """The configuration of an adapter of these updates: alpha is the rank everywhere, so every scale is 1."""
    rank = Counter(update.rank for update in updates.values()).most_common(1)[0][0]
    others = {path: update.rank for path, update in updates.items() if update.rank != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _targets(updates, modules),
        **({"rank_pattern": others, "alpha_pattern": dict(others)} if others else {}),
    }


def _targets(updates: Mapping[str, LowRank], modules: Collection[str]) -> list[str]:
    """Names of modules where all of that name were merged, else paths."""
    merged_paths: dict[str, set[str]] = {}
    for path in updates:
        merged_paths.setdefault(path.rpartition(".")[2], set()).add(path)
    targets: list[str] = []
    for name, paths in merged_paths.items():
        everywhere = {path for path in modules if path == name or path.endswith(f".{name}")}
        targets += [name] if everywhere == paths else sorted(paths)
    return targets


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, what is drawn at random depends on the seed alone; afterwards the generator is as it was."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        yield
