"""What base models, adapters, datasets and compositions have in common, as one table. Holds no behaviour."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from registry.entities import AdapterVersion, BaseModel, CompositionVersion, DatasetVersion
from registry.errors import AdapterNotFound, CompositionNotFound, DatasetNotFound, NotFound
from registry.records.models import (
    AdapterRow,
    AdapterVersionRow,
    CompositionRow,
    CompositionVersionRow,
    DatasetRow,
    DatasetVersionRow,
)
from registry.records.record_rows import as_adapter, as_composition, as_dataset

#: A version of a kind that has versions.
Version = TypeVar("Version", bound=AdapterVersion | DatasetVersion | CompositionVersion)

#: What can be looked up, removed and restored.
Record = BaseModel | AdapterVersion | DatasetVersion | CompositionVersion


@dataclass(frozen=True, kw_only=True)
class VersionedKind(Generic[Version]):
    """Where one kind of versioned record is kept, and what it is called."""

    name: str
    #: Table of names, and table of versions.
    names: Any
    versions: Any
    #: The versions' foreign key to the name, and the relationship over it.
    name_key: str
    name_relation: str
    #: Column that `name@sha256:…` selects by.
    digest: str
    #: Column of the alias table that points to a version of this kind.
    alias_key: str
    not_found: type[NotFound]
    as_record: Callable[[Any], Version]


ADAPTER: VersionedKind[AdapterVersion] = VersionedKind(
    name="adapter",
    names=AdapterRow,
    versions=AdapterVersionRow,
    name_key="adapter_id",
    name_relation="adapter",
    digest="weights_digest",
    alias_key="adapter_version_id",
    not_found=AdapterNotFound,
    as_record=as_adapter,
)

DATASET: VersionedKind[DatasetVersion] = VersionedKind(
    name="dataset",
    names=DatasetRow,
    versions=DatasetVersionRow,
    name_key="dataset_id",
    name_relation="dataset",
    digest="digest",
    alias_key="dataset_version_id",
    not_found=DatasetNotFound,
    as_record=as_dataset,
)

COMPOSITION: VersionedKind[CompositionVersion] = VersionedKind(
    name="composition",
    names=CompositionRow,
    versions=CompositionVersionRow,
    name_key="composition_id",
    name_relation="composition",
    digest="content_digest",
    alias_key="composition_version_id",
    not_found=CompositionNotFound,
    as_record=as_composition,
)

KINDS: Mapping[str, VersionedKind[Any]] = {kind.name: kind for kind in (ADAPTER, DATASET, COMPOSITION)}
