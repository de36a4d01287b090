"""What `zoo compose` is about to do: adapters looked up, data found in their lineage, verdicts given.

Nothing is trained and torch is not imported: a composition that cannot work is refused here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from registry.entities import AdapterVersion
from registry.errors import Incompatible
from registry.intake.compatibility import CompatibilityResult, joint_compatibility_of, refused
from registry.references import checked_name
from registry.service import Registry
from workers.requests.composition_data import AskedData, FoundData, find_data
from workers.requests.datasets import GivenDataset
from workers.requests.methods import DEFAULT_METHOD, method_row, require_read
from workers.requests.specs import ComposeSpec
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid

#: The scaling head unless asked otherwise: small enough to learn in seconds, and gates every layer apart.
DEFAULT_HEAD = {"layerwise_scalings": True, "xlora_depth": 2, "xlora_size": 256}


def default_head(experts: int) -> dict[str, Any]:
    """The default scaling head for this number of experts.

    In the scaling pass all experts are active with equal weight, because hidden states of the uniform mixture
    show which domain is being answered; those of the base alone hardly tell one domain's "K" from another's.
    """
    return {**DEFAULT_HEAD, "scaling_pass_value": 1 / experts}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked for, before anything is looked up."""

    name: str
    adapters: tuple[str, ...]
    method: str = DEFAULT_METHOD
    data: AskedData = field(default_factory=AskedData)
    head: Mapping[str, Any] = field(default_factory=dict)
    #: the fields of the spec that were given
    budget: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request with everything looked up, and what the checks say of it."""

    request: Request
    adapters: tuple[AdapterVersion, ...]
    data: FoundData
    verdicts: tuple[CompatibilityResult, ...]

    def spec(self) -> ComposeSpec:
        """The job's spec; every reference in it names a version, once files are registered.

        Raises:
            ConfigInvalid: the scaling head cannot be of these experts; its field is called `head.FIELD`.
            SpecInvalid: another field is out of its range.
        """
        reads_head = "head" in method_row(self.request.method).settings
        return ComposeSpec(
            name=self.request.name,
            adapters=tuple(adapter.reference for adapter in self.adapters),
            method=self.request.method,
            data=_references(self.data.labelled),
            corpora=tuple(given.reference for given in self.data.corpora),
            eval_data=_references(self.data.evaluated),
            mixed_datasets=tuple(given.reference for given in self.data.mixed),
            head=self._head() if reads_head else {},
            **self.request.budget,
        )

    def _head(self) -> dict[str, Any]:
        chosen = self.request.budget.get("choose") or len(self.adapters)
        experts = [adapter.name for adapter in self.adapters][:chosen]
        head = {**default_head(len(experts)), **self.request.head}
        try:
            XLoraConfig.from_json({**head, "adapters": experts})
        except ConfigInvalid as refused:
            raise refused.renamed(f"head.{refused.field}") from refused
        return head

    @property
    def is_refused(self) -> bool:
        """Whether the adapters do not go together."""
        return bool(refused(self.verdicts))

    def verdict_rows(self) -> list[dict[str, object]]:
        """A row for each expert, then one for each verdict on them together."""
        experts: list[dict[str, object]] = [
            {
                "expert": adapter.reference,
                "base": adapter.base_name,
                "rank": adapter.rank,
                "layers": len(adapter.modules),
                "effect": "" if adapter.effect_score is None else f"{adapter.effect_score:.2g}",
                "data": self._data_of(adapter),
                "verdict": "; ".join(["ok", *adapter.warnings]),
            }
            for adapter in self.adapters
        ]
        together: list[dict[str, object]] = [
            {"expert": "together", "verdict": f"{verdict.level.upper()} {verdict.code}: {verdict.message}"}
            for verdict in self.verdicts
        ]
        columns = list(experts[0]) if experts else []
        return [{column: row.get(column, "") for column in columns} for row in (*experts, *together)]

    def registered(self, registry: Registry) -> "Plan":
        """The same with every file on record."""
        return replace(self, data=self.data.registered(registry))

    def _data_of(self, adapter: AdapterVersion) -> str:
        own = self.data.labelled.get(domain_names(self.adapters)[adapter.name])
        return ", ".join(given.reference for given in (*([own] if own else []), *self.data.corpora))


def make_plan(registry: Registry, request: Request) -> Plan:
    """Look up adapters and data, and check whether they go together.

    Raises:
        NotFound: an adapter or dataset is unknown, or there is no such file.
        InvalidDataset: a file's examples are not what its name says.
        InvalidField: an adapter's data is neither given nor in its lineage, or is one example alone.
        SpecInvalid: there is no such method, or something was given that it does not read.
    """
    asked = {"head": request.head, "data": request.data.labelled, "corpora": request.data.corpora}
    require_read(request.method, {**request.budget, **{name: each for name, each in asked.items() if each}})
    adapters = tuple(registry.adapters.get(reference) for reference in request.adapters)
    for adapter in adapters:
        checked_name(adapter.name, kind="adapter")  # one of before the name was reserved
    verdicts = joint_compatibility_of(adapters)
    names = domain_names(adapters)
    domains = {names[adapter.name]: adapter for adapter in adapters}
    to_train = method_row(request.method).needs_data
    data = find_data(registry, request.data, domains, to_train=to_train)
    return Plan(request=request, adapters=adapters, data=data, verdicts=verdicts)


def require_compatible(plan: Plan) -> None:
    """Refuse a plan with a refusing verdict.

    Raises:
        Incompatible: with every reason.
    """
    reasons = [f"{verdict.code}: {verdict.message}" for verdict in refused(plan.verdicts)]
    if reasons:
        raise Incompatible(f"cannot compose {', '.join(plan.request.adapters)}:", reasons=reasons)


def domain_names(adapters: Sequence[AdapterVersion]) -> dict[str, str]:
    """Adapter name -> the domain it owns here, which no other owns, in whatever order they are given.

    It owns its one domain, unless another adapter has that too or is called so; else its own name.
    """
    shared = Counter(domain for adapter in adapters for domain in adapter.domains)
    names = {adapter.name for adapter in adapters}
    return {
        adapter.name: adapter.domains[0]
        if len(adapter.domains) == 1
        and shared[adapter.domains[0]] == 1
        and adapter.domains[0] not in names - {adapter.name}
        else adapter.name
        for adapter in adapters
    }


def _references(by_domain: Mapping[str, GivenDataset]) -> dict[str, str]:
    return {domain: given.reference for domain, given in by_domain.items()}
