"""What a record is made from: base model, adapters, data, down to files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.bills.licences import strictness_of
from registry.entities import AdapterVersion, BaseModel, CompositionVersion, DatasetVersion, FileRecord
from registry.errors import NotFound
from registry.records.mentions import FIELDS, texts_in
from registry.service import Registry


@dataclass(frozen=True, kw_only=True)
class Material:
    """One record that something is made from, or the thing itself."""

    #: "base", "adapter", "composition" or "dataset".
    kind: str
    #: `bio@3`; of a base model its name.
    reference: str
    digest: str
    licence: str | None
    origin: str
    files: tuple[FileRecord, ...]
    #: Keys of the materials that it is made from.
    made_of: tuple[str, ...]
    #: Further records that it names, but that are no longer there.
    missing: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`adapter:bio@3`."""
        return f"{self.kind}:{self.reference}"


def materials_of(registry: Registry, record: AdapterVersion | CompositionVersion) -> tuple[Material, ...]:
    """The record and all that it is made from, itself first; each once.

    What was removed is still known; what was erased is `missing` where it is named.
    """
    found: dict[str, Material] = {}
    waiting: list[_Record] = [record]
    while waiting:
        material, sources = _described(registry, waiting.pop(0))
        if material.key not in found:
            found[material.key] = material
            waiting += sources
    return tuple(found.values())


def strictest_first(materials: Sequence[Material]) -> tuple[Material, ...]:
    """The same by how much their licences ask; where that is equal, in their order."""
    return tuple(sorted(materials, key=lambda material: strictness_of(material.licence)))


_Record = BaseModel | AdapterVersion | CompositionVersion | DatasetVersion


def _described(registry: Registry, record: _Record) -> tuple[Material, list[_Record]]:
    match record:
        case BaseModel():
            return _material("base", record, record.digest, record.licence, record.source, []), []
        case DatasetVersion():
            return _material("dataset", record, record.digest, record.licence, record.origin, []), []
        case AdapterVersion():
            sources, missing = _sources(registry, record)
            material = _material(
                *("adapter", record, record.weights_digest, record.licence, record.origin, sources), missing
            )
            return material, sources
        case CompositionVersion():
            base = registry.bases.get(record.base_digest, include_deleted=True)
            experts = [
                registry.adapters.get(expert.adapter_reference, include_deleted=True)
                for expert in record.experts
            ]
            data, missing = _data(registry, _request(registry, record.job_id))
            sources = [base, *experts, *data]
            origin = f"job:{record.job_id}" if record.job_id else "file"
            return (
                _material("composition", record, record.content_digest, None, origin, sources, missing),
                sources,
            )


def _material(
    kind: str,
    record: _Record,
    digest: str,
    licence: str | None,
    origin: str,
    sources: Sequence[_Record],
    missing: Sequence[str] = (),
) -> Material:
    return Material(
        kind=kind,
        reference=record.reference,
        digest=digest,
        licence=licence,
        origin=origin,
        files=record.files,
        made_of=tuple(f"{_KINDS[type(source)]}:{source.reference}" for source in sources),
        missing=tuple(missing),
    )


_KINDS: Mapping[type[_Record], str] = {
    BaseModel: "base",
    AdapterVersion: "adapter",
    CompositionVersion: "composition",
    DatasetVersion: "dataset",
}


def _sources(registry: Registry, adapter: AdapterVersion) -> tuple[list[_Record], list[str]]:
    """The base model, the adapters and the data that an adapter version comes from."""
    base = registry.bases.get(adapter.base_digest, include_deleted=True)
    data, missing = _data(registry, adapter.parameters)
    earlier: list[_Record] = []
    for reference in _named(adapter.parameters, FIELDS["adapter"]):
        try:
            earlier.append(registry.adapters.get(reference, include_deleted=True))
        except NotFound:
            missing.append(f"adapter:{reference}")
    return [base, *earlier, *data], missing


def _data(registry: Registry, facts: Mapping[str, Any]) -> tuple[list[_Record], list[str]]:
    """The datasets that a request or settings name, and the names of those that are gone."""
    found: list[_Record] = []
    missing: list[str] = []
    for reference in _named(facts, FIELDS["dataset"]):
        try:
            found.append(registry.datasets.get(reference, include_deleted=True))
        except NotFound:
            missing.append(f"dataset:{reference}")
    return found, missing


def _request(registry: Registry, job_id: int | None) -> Mapping[str, Any]:
    return {} if job_id is None else registry.jobs.get(job_id).spec


def _named(facts: Mapping[str, Any], fields: Sequence[str]) -> Iterator[str]:
    """The references in these fields, each once; of an object those are the side that has versions."""
    seen = dict.fromkeys(text for field in fields for text in texts_in(facts.get(field)) if "@" in text)
    yield from seen
