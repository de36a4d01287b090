"""A table of what adapters, datasets and compositions have in common. Without behaviour."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from registry.entities import AdapterVersion, BaseModel, CompositionVersion, DatasetVersion
from registry.records import resolution
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
    """The tables and names of one kind of versioned record."""

    #: How its references are resolved.
    looked_up: resolution.Kind
    #: Table of names, and table of versions.
    names: Any
    versions: Any
    as_record: Callable[[Any], Version]

    @property
    def name(self) -> str:
        """`adapter`; also the relationship from a version to its name."""
        return self.looked_up.name

    @property
    def name_key(self) -> str:
        """The versions' foreign key to the name."""
        return f"{self.name}_id"

    @property
    def alias_key(self) -> str:
        """Column of the alias table that points to a version of this kind."""
        return f"{self.name}_version_id"


ADAPTER: VersionedKind[AdapterVersion] = VersionedKind(
    looked_up=resolution.ADAPTER, names=AdapterRow, versions=AdapterVersionRow, as_record=as_adapter
)

DATASET: VersionedKind[DatasetVersion] = VersionedKind(
    looked_up=resolution.DATASET, names=DatasetRow, versions=DatasetVersionRow, as_record=as_dataset
)

COMPOSITION: VersionedKind[CompositionVersion] = VersionedKind(
    looked_up=resolution.COMPOSITION,
    names=CompositionRow,
    versions=CompositionVersionRow,
    as_record=as_composition,
)

KINDS: Mapping[str, VersionedKind[Any]] = {kind.name: kind for kind in (ADAPTER, DATASET, COMPOSITION)}
