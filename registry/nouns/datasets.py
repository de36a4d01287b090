"""Datasets: registering, looking up, listing, removing, and aliases."""

from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from registry.database.database import Database
from registry.database.reader import reader_over
from registry.entities import DatasetVersion
from registry.files.artifacts import ArtifactStore
from registry.lists import queries
from registry.lists.queries import Rows
from registry.nouns.versioned import Versioned
from registry.records.kinds import DATASET
from registry.registration.datasets import (
    AS_IT_IS,
    CheckedDataset,
    Reading,
    check_dataset,
    register_dataset,
)
from registry.registration.held_out import parts_named, split_off


class Datasets(Versioned[DatasetVersion]):
    """Datasets and their versions."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        super().__init__(DATASET, database, artifacts)

    def check(self, file: Path, reading: Reading = AS_IT_IS) -> CheckedDataset:
        """Copy a file and check its examples, to `register` it later: see `registration.datasets`."""
        return check_dataset(file, self._artifacts, reading)

    def register(
        self,
        given: Path | CheckedDataset,
        *,
        name: str | None = None,
        domain: str | None = None,
        split: str | None = None,
        licence: str | None = None,
        origin: str | None = None,
        reading: Reading = AS_IT_IS,
    ) -> DatasetVersion:
        """Register a dataset version: see `registration.datasets`."""
        return register_dataset(
            given,
            name=name,
            domain=domain,
            split=split,
            licence=licence,
            origin=origin,
            reading=reading,
            database=self._database,
            artifacts=self._artifacts,
        )

    def hold_out(
        self,
        file: Path,
        *,
        share: float,
        seed: int = 0,
        name: str | None = None,
        domain: str | None = None,
        licence: str | None = None,
        reading: Reading = AS_IT_IS,
    ) -> tuple[DatasetVersion, DatasetVersion]:
        """Register a file as two datasets, `NAME.train` and `NAME.eval`: see `registration.held_out`."""
        checked = self.check(file, reading)
        parts = split_off(checked, self._artifacts, share=share, seed=seed)
        training, held_out = (
            self.register(
                part, name=called, domain=domain, split=split, licence=licence, origin=f"file:{file.name}"
            )
            for part, called, split in zip(parts, parts_named(name, checked), ("train", "eval"), strict=True)
        )
        return training, held_out

    def list(
        self, *, domain: str | None = None, include_deleted: bool = False, limit: int | None = None
    ) -> Rows:
        """Dataset versions as `zoo datasets ls` shows them: see `lists.queries`."""
        with self._database.read() as session:
            return queries.datasets(
                reader_over(session), domain=domain, include_deleted=include_deleted, limit=limit
            )

    def _related(self, session: Session, record: DatasetVersion) -> dict[str, Any]:
        """`trained`: the adapters that were trained on it."""
        return {"trained": queries.adapter_references(reader_over(session), trained_on=record.reference)}
