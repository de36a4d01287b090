"""What `zoo compose` is about to do: adapters looked up, data found in their lineage, verdicts given.

Nothing is trained and torch is not imported: a composition that cannot work is refused here.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.entities import AdapterVersion, DatasetVersion
from registry.errors import Incompatible, InvalidField
from registry.intake.compatibility import CompatibilityResult, joint_compatibility_of, refused
from registry.references import checked_name
from registry.service import Registry
from workers.requests.methods import DEFAULT_METHOD, method_row, require_read
from workers.requests.specs import LEAST_EXAMPLES, ComposeSpec, task_of
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
    data: Mapping[str, str] = field(default_factory=dict)
    eval_data: Mapping[str, str] = field(default_factory=dict)
    mixed: tuple[str, ...] = ()
    head: Mapping[str, Any] = field(default_factory=dict)
    #: the fields of the spec that were given
    budget: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request with everything looked up, and what the checks say of it."""

    request: Request
    adapters: tuple[AdapterVersion, ...]
    #: domain -> dataset reference
    data: Mapping[str, str]
    eval_data: Mapping[str, str]
    mixed: tuple[str, ...]
    verdicts: tuple[CompatibilityResult, ...]

    def spec(self) -> ComposeSpec:
        """The job's spec; every reference in it names a version.

        Raises:
            ConfigInvalid: the scaling head cannot be of these experts; its field is called `head.FIELD`.
            SpecInvalid: another field is out of its range.
        """
        reads_head = "head" in method_row(self.request.method).settings
        return ComposeSpec(
            name=self.request.name,
            adapters=tuple(adapter.reference for adapter in self.adapters),
            method=self.request.method,
            data=self.data,
            eval_data=self.eval_data,
            mixed_datasets=self.mixed,
            head=self._head() if reads_head else {},
            **self.request.budget,
        )

    def _head(self) -> dict[str, Any]:
        experts = [adapter.name for adapter in self.adapters]
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
                "data": self.data.get(self.domain_of(adapter), ""),
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

    def domain_of(self, adapter: AdapterVersion) -> str:
        """The domain an adapter is trained for here."""
        return domain_names(self.adapters)[adapter.name]


def make_plan(registry: Registry, request: Request) -> Plan:
    """Look up adapters and data, and check whether they go together.

    Raises:
        NotFound: an adapter or dataset is unknown.
        InvalidField: an adapter's data is neither given nor in its lineage, or is one example alone.
        SpecInvalid: there is no such method, or something was given that it does not read.
    """
    row = method_row(request.method)
    asked = {"head": request.head, "data": request.data}
    require_read(request.method, {**request.budget, **{name: each for name, each in asked.items() if each}})
    adapters = tuple(registry.adapters.get(reference) for reference in request.adapters)
    verdicts = joint_compatibility_of(adapters)
    domains = domain_names(adapters)
    names = Counter(domains.values())
    for option, given in (("--data", request.data), ("--eval-data", request.eval_data)):
        for domain in given:
            if domain not in names:
                raise InvalidField(option, allowed=f"for one of {sorted(names)}", value=domain)
    for adapter in adapters:
        checked_name(adapter.name, kind="adapter")  # one of before the name was reserved
    mixed = tuple(registry.datasets.get(reference).reference for reference in request.mixed)
    _require_own_task(mixed, domains.values())
    data, eval_data = {}, {}
    for adapter in adapters:
        domain = domains[adapter.name]
        if row.needs_data:
            data[domain] = _training_data(registry, adapter, domain, request.data)
        eval_data[domain] = _dataset(
            registry, adapter, domain, request.eval_data, "eval_dataset", "--eval-data"
        ).reference
    return Plan(
        request=request,
        adapters=adapters,
        data=data,
        eval_data=eval_data,
        mixed=mixed,
        verdicts=verdicts,
    )


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


def _require_own_task(mixed: Sequence[str], domains: Collection[str]) -> None:
    """Do nothing if every task of the report has a name of its own.

    Raises:
        InvalidField: two mixed datasets share one, or a mixed dataset is called as a domain is.
    """
    taken = set(domains)
    for reference in mixed:
        task = task_of(reference)
        if task in taken:
            raise InvalidField(
                "--mixed",
                allowed=f"datasets whose tasks differ from each other and from the domains {sorted(domains)};"
                " register this one under another name: zoo register dataset FILE --name NAME",
                value=reference,
            )
        taken.add(task)


def _training_data(registry: Registry, adapter: AdapterVersion, domain: str, given: Mapping[str, str]) -> str:
    train = _dataset(registry, adapter, domain, given, "train_dataset", "--data")
    if train.examples < LEAST_EXAMPLES:
        raise InvalidField(
            "--data",
            allowed=f"of at least {LEAST_EXAMPLES} examples, one of which is held out",
            value=f"{domain}={train.reference} of {train.examples}",
        )
    return train.reference


def _dataset(
    registry: Registry,
    adapter: AdapterVersion,
    domain: str,
    given: Mapping[str, str],
    parameter: str,
    option: str,
) -> DatasetVersion:
    reference = given.get(domain) or adapter.parameters.get(parameter)
    if not reference:
        raise InvalidField(
            option,
            allowed=f"given as {domain}=DATASET, for {adapter.reference} does not say its own",
            value=None,
        )
    return registry.datasets.get(str(reference))
