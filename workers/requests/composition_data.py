"""The data of a composition: given by domain, given for all adapters, or found in their lineage."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from registry.entities import AdapterVersion
from registry.errors import InvalidField
from registry.service import Registry
from workers.requests.datasets import GivenDataset, given_dataset
from workers.requests.specs import LEAST_EXAMPLES, task_of


@dataclass(frozen=True, kw_only=True)
class AskedData:
    """Datasets as a user named them: references, or files."""

    #: domain -> dataset to train on
    labelled: Mapping[str, str] = field(default_factory=dict)
    #: to train on, of no one domain
    corpora: tuple[str, ...] = ()
    #: domain -> held-out dataset
    evaluated: Mapping[str, str] = field(default_factory=dict)
    #: held-out datasets whose questions join domains
    mixed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FoundData:
    """The same, looked up and completed from lineage; files among them are not on record yet."""

    labelled: Mapping[str, GivenDataset]
    corpora: tuple[GivenDataset, ...]
    evaluated: Mapping[str, GivenDataset]
    mixed: tuple[GivenDataset, ...]

    def registered(self, registry: Registry) -> Self:
        """With every file on record."""
        return type(self)(
            labelled={domain: given.on_record(registry) for domain, given in self.labelled.items()},
            corpora=tuple(given.on_record(registry) for given in self.corpora),
            evaluated={domain: given.on_record(registry) for domain, given in self.evaluated.items()},
            mixed=tuple(given.on_record(registry) for given in self.mixed),
        )


def find_data(
    registry: Registry, asked: AskedData, domains: Mapping[str, AdapterVersion], *, to_train: bool
) -> FoundData:
    """Look the data up; what is missing comes from the adapters, by domain, where they say it.

    Data of no one domain are enough for all adapters: then none needs any of its own.

    Raises:
        NotFound: a dataset is unknown, or there is no such file.
        InvalidField: data are for a domain that no adapter has, or too few, or not known for one of them.
    """
    for option, given in (("--data", asked.labelled), ("--eval-data", asked.evaluated)):
        for domain in given:
            if domain not in domains:
                raise InvalidField(option, allowed=f"for one of {sorted(domains)}", value=domain)
    corpora = tuple(given_dataset(registry, reference) for reference in asked.corpora)
    mixed = tuple(given_dataset(registry, reference) for reference in asked.mixed)
    _require_own_task([given.reference for given in mixed], domains)
    lineage = _Lineage(registry, domains, needed=not corpora)
    found = FoundData(
        labelled=lineage.complete(asked.labelled, "train_dataset", "--data", fill=to_train and not corpora),
        corpora=corpora,
        evaluated=lineage.complete(asked.evaluated, "eval_dataset", "--eval-data", fill=True),
        mixed=mixed,
    )
    _require_enough(found)
    return found


class _Lineage:
    """What the adapters say of their own data."""

    def __init__(self, registry: Registry, domains: Mapping[str, AdapterVersion], *, needed: bool) -> None:
        self._registry = registry
        self._domains = domains
        self._needed = needed

    def complete(
        self, given: Mapping[str, str], parameter: str, option: str, *, fill: bool
    ) -> dict[str, GivenDataset]:
        """A dataset for every domain; where `fill` is off or none is needed, for those that are known."""
        found = {}
        for domain, adapter in self._domains.items():
            own = adapter.parameters.get(parameter) if fill else None
            reference = given.get(domain) or own
            if reference:
                found[domain] = given_dataset(self._registry, str(reference))
            elif fill and self._needed:
                ways = f"{domain}=DATASET" + (", or one DATASET for all" if option == "--data" else "")
                allowed = f"given as {ways}, for {adapter.reference} does not say its own"
                raise InvalidField(option, allowed=allowed, value=None)
        return found


def _require_enough(found: FoundData) -> None:
    by_name = {f"{domain}={given.reference}": given for domain, given in found.labelled.items()}
    for name, given in {**by_name, **{given.reference: given for given in found.corpora}}.items():
        if given.examples < LEAST_EXAMPLES:
            raise InvalidField(
                "--data",
                allowed=f"of at least {LEAST_EXAMPLES} examples, one of which is held out",
                value=f"{name} of {given.examples}",
            )
    twice = [name for name, count in Counter(given.reference for given in found.corpora).items() if count > 1]
    if twice:
        raise InvalidField("--data", allowed="of different datasets", value=f"{twice[0]} twice")


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
