"""Base models: registering, looking up, listing, removing."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from registry.database.database import Database
from registry.database.reader import reader_over
from registry.entities import BaseModel
from registry.files.artifacts import ArtifactStore
from registry.intake.base_weights import Prove
from registry.lists import queries
from registry.lists.queries import Rows
from registry.records import removal
from registry.records.lookup import find_base
from registry.records.record_rows import as_base
from registry.records.resolution import ACTIVE, ACTIVE_FIRST, ONLY_ACTIVE
from registry.records.uses import Use, uses_of
from registry.registration.bases import register_base


class Bases:
    """Base models, which have neither versions nor aliases; every method is one transaction."""

    def __init__(self, database: Database, artifacts: ArtifactStore) -> None:
        self._database = database
        self._artifacts = artifacts

    def register(
        self,
        folder: Path,
        *,
        name: str,
        source: str,
        revision: str | None = None,
        licence: str | None = None,
        prove: Prove | None = None,
        chat_template: str | None = None,
    ) -> BaseModel:
        """Register a base model: see `registration.bases`."""
        return register_base(
            folder,
            name=name,
            source=source,
            revision=revision,
            licence=licence,
            prove=prove,
            chat_template=chat_template,
            database=self._database,
            artifacts=self._artifacts,
        )

    def get(self, reference: str, *, include_deleted: bool = False) -> BaseModel:
        """The base model of a name or digest.

        Raises:
            BaseNotFound: there is no such base model.
            InvalidReference: the text is no reference, or its digest fits several base models.
        """
        states = ACTIVE_FIRST if include_deleted else ONLY_ACTIVE
        with self._database.read() as session:
            return as_base(find_base(session, reference, states=states))

    def list(self, *, include_deleted: bool = False, limit: int | None = None) -> Rows:
        """Base models as `zoo bases ls` shows them: see `lists.queries`."""
        with self._database.read() as session:
            return queries.bases(reader_over(session), include_deleted=include_deleted, limit=limit)

    def uses(self, reference: str) -> tuple[Use, ...]:
        """Everything that refers to a base model, even a removed one: see `records.uses`."""
        with self._database.read() as session:
            return uses_of(reader_over(session), "base", reference)

    def remove(self, reference: str) -> BaseModel:
        """Remove a base model; `restore` brings it back.

        Raises:
            InUse: records need it; the error names them.
            BaseNotFound: there is no such base model.
        """
        with self._database.write() as session:
            return as_base(removal.remove_base(session, reference))

    def restore(self, reference: str) -> BaseModel:
        """Undo `remove`; BaseNotFound if there is no such base model."""
        with self._database.write() as session:
            return as_base(removal.restore_base(session, reference))

    def details(self, reference: str) -> dict[str, Any]:
        """Everything known about a base model, even a removed one: its fields, and its adapters.

        Raises:
            BaseNotFound: there is no such base model.
            InvalidReference: the text is no reference, or its digest fits several base models.
        """
        with self._database.read() as session:
            base = as_base(find_base(session, reference, states=ACTIVE_FIRST))
            is_active = base.state == ACTIVE
            adapters = queries.adapter_references(reader_over(session), base=base.name) if is_active else []
            return {**asdict(base), "adapters": adapters}
