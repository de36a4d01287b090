"""Do adapters and a base model fit, and adapters each other? Said before any time is spent.

Pure: knows shapes, digests and names, no files or records.

Refusals: E271 a module the base lacks · E272 a shape or kind that does not fit · E273 different bases ·
E274 an expert twice · E275 the same weights twice.
Warnings: W201 found while reading · W202 mixed ranks · W203 mixed modules · W204 layers left out ·
W205 no licence stated · W206 one expert alone · W207 another base model named · W209 parts for pictures
left out · W210 several experts of one domain.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from formats.base_modules import adaptable_modules
from formats.module_names import Placement, placement
from registry.intake.adapter_files import AdapterManifest
from registry.intake.fitting.misfits import listed, misfits

OK, WARN, REFUSE = "ok", "warn", "refuse"
_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True, kw_only=True)
class CompatibilityResult:
    """One thing found; `level` is "ok", "warn" or "refuse", and `code` never changes its meaning."""

    level: str
    code: str
    message: str


class Composable(Protocol):
    """What composing looks at; `AdapterVersion` has it."""

    @property
    def name(self) -> str: ...
    @property
    def base_digest(self) -> str: ...
    @property
    def base_name(self) -> str: ...
    @property
    def weights_digest(self) -> str: ...
    @property
    def rank(self) -> int: ...
    @property
    def modules(self) -> tuple[str, ...]: ...
    @property
    def licence(self) -> str | None: ...
    @property
    def domains(self) -> tuple[str, ...]: ...


def compatibility_of(
    manifest: AdapterManifest,
    base_weights: Mapping[str, tuple[int, int]],
    base_name: str,
    *,
    architecture: str,
) -> tuple[CompatibilityResult, ...]:
    """Whether an adapter fits the base model called `base_name`.

    `base_weights` maps names in its weights files to (d_out, d_in); `architecture` is the class it loads as.
    """
    base_modules = adaptable_modules(base_weights, architecture)
    placed = placement(manifest.modules, base_modules)
    refusals = [
        _refuse(code, message)
        for code, message in misfits(manifest.modules, placed, base_modules, base_weights, base_name)
    ]
    if refusals:
        return tuple(refusals)
    return (
        _ok(f"fits {base_name} in all {len(placed.names)} modules it touches"),
        *_coverage(placed.names.values(), base_modules),
        *_left_out(placed, base_name),
        *(noticed(text) for text in (*manifest.config.notes, *manifest.warnings)),
        *([] if manifest.licence else [_warn("ZOO-W205", "no licence is stated; give one with --licence")]),
    )


def noticed(message: str) -> CompatibilityResult:
    """The warning of something that was noticed while an adapter was read or placed."""
    return _warn("ZOO-W201", message)


def joint_compatibility_of(adapters: Sequence[Composable]) -> tuple[CompatibilityResult, ...]:
    """Whether adapters can be the experts of one composition."""
    refusals = [*_different_bases(adapters), *_same_names(adapters), *_same_weights(adapters)]
    if refusals:
        return tuple(refusals)
    if not adapters:
        return ()
    fits = _ok(f"{_counted(len(adapters))} of {adapters[0].base_name}")
    return (fits, *_alone(adapters), *_mixed(adapters))


def refused(results: Iterable[CompatibilityResult]) -> tuple[CompatibilityResult, ...]:
    """The refusals among results."""
    return tuple(result for result in results if result.level == REFUSE)


def _left_out(placed: Placement, base_name: str) -> list[CompatibilityResult]:
    if not placed.left_out:
        return []
    message = f"left out, because {base_name} reads text alone: {listed(placed.left_out)}"
    return [_warn("ZOO-W209", message)]


def _coverage(touched: Iterable[str], base_modules: Iterable[str]) -> list[CompatibilityResult]:
    """Kinds of module that are adapted in some layers and not in others."""
    totals = Counter(_LAYER.sub(".*.", path) for path in base_modules)
    counts = Counter(_LAYER.sub(".*.", path) for path in touched)
    partial: dict[tuple[int, int], list[str]] = {}
    for kind, count in sorted(counts.items()):
        if count < totals[kind]:
            partial.setdefault((count, totals[kind]), []).append(kind.rpartition("*.")[2])
    return [
        _warn("ZOO-W204", f"{count} of {total} layers are adapted: {listed(kinds)}")
        for (count, total), kinds in partial.items()
    ]


def _different_bases(adapters: Sequence[Composable]) -> list[CompatibilityResult]:
    bases: dict[str, list[str]] = {}
    for adapter in adapters:
        bases.setdefault(f"{adapter.base_name} ({adapter.base_digest[:19]}…)", []).append(adapter.name)
    if len(bases) < 2:
        return []
    listed = "; ".join(f"{', '.join(names)} on {base}" for base, names in bases.items())
    return [_refuse("ZOO-E273", f"experts must share one base model, these do not: {listed}")]


def _same_names(adapters: Sequence[Composable]) -> list[CompatibilityResult]:
    counts = Counter(adapter.name for adapter in adapters)
    return [
        _refuse("ZOO-E274", f"{name} is named {count} times; name each expert once, in one version")
        for name, count in counts.items()
        if count > 1
    ]


def _same_weights(adapters: Sequence[Composable]) -> list[CompatibilityResult]:
    holders: dict[str, set[str]] = {}
    for adapter in adapters:
        holders.setdefault(adapter.weights_digest, set()).add(adapter.name)
    return [
        _refuse("ZOO-E275", f"{' and '.join(sorted(names))} hold the same weights; leave out all but one")
        for names in holders.values()
        if len(names) > 1
    ]


def _counted(experts: int) -> str:
    return "1 expert" if experts == 1 else f"{experts} experts"


def _alone(adapters: Sequence[Composable]) -> list[CompatibilityResult]:
    if len(adapters) != 1:
        return []
    message = "one expert is alone: through a softmax it counts in full, as it does by itself"
    return [_warn("ZOO-W206", f"{message}; name another in --adapters")]


def _mixed(adapters: Sequence[Composable]) -> list[CompatibilityResult]:
    found = []
    if len({adapter.rank for adapter in adapters}) > 1:
        ranks = ", ".join(f"{adapter.name} {adapter.rank}" for adapter in adapters)
        found.append(_warn("ZOO-W202", f"the ranks differ: {ranks}"))
    if len({frozenset(adapter.modules) for adapter in adapters}) > 1:
        counts = ", ".join(f"{adapter.name} {len(adapter.modules)}" for adapter in adapters)
        found.append(
            _warn("ZOO-W203", f"the modules differ ({counts}); where one has none, its share has no effect")
        )
    for domain, names in _sharing_a_domain(adapters).items():
        message = f"{' and '.join(names)} are all of {domain}: each is reported on under its own name"
        found.append(_warn("ZOO-W210", f"{message}, and --data {domain}=… is for none of them"))
    unlicensed = [adapter.name for adapter in adapters if not adapter.licence]
    if unlicensed:
        found.append(_warn("ZOO-W205", f"no licence is stated for {', '.join(unlicensed)}"))
    return found


def _sharing_a_domain(adapters: Sequence[Composable]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for adapter in adapters:
        for domain in adapter.domains:
            names.setdefault(domain, []).append(adapter.name)
    return {domain: shared for domain, shared in names.items() if len(shared) > 1}


def _refuse(code: str, message: str) -> CompatibilityResult:
    return CompatibilityResult(level=REFUSE, code=code, message=message)


def _ok(message: str) -> CompatibilityResult:
    return CompatibilityResult(level=OK, code="ZOO-OK", message=message)


def _warn(code: str, message: str) -> CompatibilityResult:
    return CompatibilityResult(level=WARN, code=code, message=message)
