"""The request that made a composition, with other experts in their places. Nothing is trained here."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from registry.entities import AdapterVersion, CompositionVersion
from registry.service import Registry
from workers.errors import SpecInvalid
from workers.requests.composition import planned_composition
from workers.requests.composition_data import AskedData
from workers.requests.composition_plan import Plan, Request, domain_names
from workers.requests.specs import ComposeSpec

#: Fields that say what is composed; the others say how, and stay as they were.
_WHAT = ("name", "adapters", "method", "data", "corpora", "eval_data", "mixed_datasets", "head")


def rebuilt_plan(registry: Registry, reference: str, replacements: Sequence[str]) -> Plan:
    """What composing anew would do; each replacement is an adapter, or `EXPERT=ADAPTER`.

    An adapter alone takes the place of the expert of its name. Data for an expert's domain become data for
    that of the adapter in its place.

    Raises:
        NotFound: the composition, an adapter or a dataset is not there.
        SpecInvalid: no job here made the composition, or it has no such expert, or nothing is replaced.
    """
    composition = registry.compositions.get(reference)
    before = _request_of(registry, composition)
    old = tuple(registry.adapters.get(name, include_deleted=True) for name in before.adapters)
    new = _replaced(registry, old, replacements)
    if new == old:
        allowed = f"other than {composition.reference} has: {', '.join(before.adapters)}"
        raise SpecInvalid("expert", allowed, ", ".join(replacements))
    renamed = _renamed_domains(old, new)
    return planned_composition(
        registry,
        Request(
            name=before.name,
            method=before.method,
            adapters=tuple(adapter.reference for adapter in new),
            data=AskedData(
                labelled=_under(renamed, before.data),
                corpora=tuple(before.corpora),
                evaluated=_under(renamed, before.eval_data),
                mixed=tuple(before.mixed_datasets),
            ),
            head=before.head,
            budget=_how(before),
        ),
    )


def _request_of(registry: Registry, composition: CompositionVersion) -> ComposeSpec:
    if composition.job_id is None:
        allowed = "one that `zoo compose` made in this zoo, whose request is known; compose it by hand"
        raise SpecInvalid("composition", allowed, composition.reference)
    return ComposeSpec.from_json(registry.jobs.get(composition.job_id).spec)


def _replaced(
    registry: Registry, old: Sequence[AdapterVersion], replacements: Sequence[str]
) -> tuple[AdapterVersion, ...]:
    experts = {adapter.name: adapter for adapter in old}
    taken: dict[str, str] = {}
    for given in replacements:
        expert, separator, reference = given.partition("=")
        adapter = registry.adapters.get(reference if separator else given)
        place = expert if separator else adapter.name
        if place not in experts:
            allowed = (
                f"one of its experts ({', '.join(experts)}), or EXPERT=ADAPTER to replace one by another"
            )
            raise SpecInvalid("expert", allowed, given)
        if place in taken:
            raise SpecInvalid("expert", f"given once for {place}", f"{taken[place]} and {given}")
        taken[place] = given
        experts[place] = adapter
    return tuple(experts.values())


def _renamed_domains(old: Sequence[AdapterVersion], new: Sequence[AdapterVersion]) -> dict[str, str]:
    """Domain that an expert owned -> the one that the adapter in its place owns."""
    before, after = domain_names(old), domain_names(new)
    return {before[one.name]: after[other.name] for one, other in zip(old, new, strict=True)}


def _under(renamed: Mapping[str, str], data: Mapping[str, str]) -> dict[str, str]:
    return {renamed.get(domain, domain): reference for domain, reference in data.items()}


def _how(before: ComposeSpec) -> dict[str, Any]:
    """The fields that were given: the others keep their defaults, which a method need not read."""
    defaults = ComposeSpec(**{name: getattr(before, name) for name in _WHAT})
    names = [field.name for field in fields(ComposeSpec) if field.name not in _WHAT]
    return {name: getattr(before, name) for name in names if getattr(before, name) != getattr(defaults, name)}
