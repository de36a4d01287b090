"""Do adapters and a base model fit, and adapters each other? Said before any time is spent.

Pure: knows shapes, digests and names, no files or records.

Refusals: E271 a module the base lacks · E272 a shape or kind that does not fit · E273 different bases ·
E274 an expert twice · E275 the same weights twice.
Warnings: W201 found while reading · W202 mixed ranks · W203 mixed modules · W204 layers left out ·
W205 no licence stated · W206 one expert alone · W207 another base model named.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from formats.base_modules import BaseModule, adaptable_modules
from formats.peft import WEIGHTS_FILE, Factor
from registry.intake.adapter_files import AdapterManifest
from registry.intake.adapter_tensors import ModuleShape

OK, WARN, REFUSE = "ok", "warn", "refuse"
#: How many modules a message names before it only counts.
NAMED = 3

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
    refusals = _refusals(manifest.modules, base_modules, base_name)
    if refusals:
        return tuple(refusals)
    return (
        _ok(f"fits {base_name} in all {len(manifest.modules)} modules it touches"),
        *_coverage(manifest.modules, base_modules),
        *(_warn("ZOO-W201", text) for text in manifest.warnings),
        *([] if manifest.licence else [_warn("ZOO-W205", "no licence is stated; give one with --licence")]),
    )


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


def _refusals(
    modules: Mapping[str, ModuleShape], base_modules: Mapping[str, BaseModule], base_name: str
) -> list[CompatibilityResult]:
    missing = [path for path in modules if path not in base_modules]
    misfits = [
        f"{path} is {_shape(shape)}, expected {_shape(expected)}"
        for path, shape in modules.items()
        if (expected := base_modules.get(path)) is not None and _shape(shape) != _shape(expected)
    ]
    remedy = "it was made for another base model: register that one first with zoo register base"
    found = []
    if missing:
        lacking = f"{base_name} lacks {_listed(missing)}, which the adapter changes"
        way_out = _renaming(missing, modules[missing[0]], base_modules) or remedy
        found.append(_refuse("ZOO-E271", f"{lacking}; {way_out}"))
    if misfits:
        found.append(
            _refuse("ZOO-E272", f"the adapter does not fit {base_name}: {_listed(misfits)}; {remedy}")
        )
    return found


def _shape(module: ModuleShape | BaseModule) -> str:
    return f"{module.d_out}×{module.d_in}{' of an embedding' if module.is_embedding else ''}"


def _renaming(
    missing: Sequence[str], first: ModuleShape, base_modules: Mapping[str, BaseModule]
) -> str | None:
    """How to rename the keys if the modules are the base model's but for names in between; None if not."""
    surplus = _surplus(missing[0], base_modules)
    if surplus is None or any(_without(surplus, path) not in base_modules for path in missing):
        return None
    key = Factor(module=missing[0], half="A", is_embedding=first.is_embedding).key
    return (
        f"the key {key} has {surplus} too much, as one saved from inside another model or a compiled one has:"
        f" save the adapter from the model itself, or rename its keys, in its folder: python -c "
        f'"import safetensors.torch as s; f = {WEIGHTS_FILE!r};'
        f" t = {{k.replace('.{surplus}.', '.', 1): v for k, v in s.load_file(f).items()}};"
        " s.save_file(t, f, metadata={'format': 'pt'})\""
    )


def _surplus(path: str, base_modules: Mapping[str, BaseModule]) -> str | None:
    """The fewest names in a row without which the path is a module of the base model."""
    names = path.split(".")
    for count in range(1, len(names)):
        for start in range(len(names) - count):
            if ".".join((*names[:start], *names[start + count :])) in base_modules:
                return ".".join(names[start : start + count])
    return None


def _without(surplus: str, path: str) -> str:
    # As the command in the message does it, whose keys have a prefix.
    return f".{path}".replace(f".{surplus}.", ".", 1).removeprefix(".")


def _coverage(touched: Iterable[str], base_modules: Iterable[str]) -> list[CompatibilityResult]:
    """Kinds of module that are adapted in some layers and not in others."""
    totals = Counter(_LAYER.sub(".*.", path) for path in base_modules)
    counts = Counter(_LAYER.sub(".*.", path) for path in touched)
    partial: dict[tuple[int, int], list[str]] = {}
    for kind, count in sorted(counts.items()):
        if count < totals[kind]:
            partial.setdefault((count, totals[kind]), []).append(kind.rpartition("*.")[2])
    return [
        _warn("ZOO-W204", f"{count} of {total} layers are adapted: {_listed(kinds)}")
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
    unlicensed = [adapter.name for adapter in adapters if not adapter.licence]
    if unlicensed:
        found.append(_warn("ZOO-W205", f"no licence is stated for {', '.join(unlicensed)}"))
    return found


def _refuse(code: str, message: str) -> CompatibilityResult:
    return CompatibilityResult(level=REFUSE, code=code, message=message)


def _ok(message: str) -> CompatibilityResult:
    return CompatibilityResult(level=OK, code="ZOO-OK", message=message)


def _warn(code: str, message: str) -> CompatibilityResult:
    return CompatibilityResult(level=WARN, code=code, message=message)


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
