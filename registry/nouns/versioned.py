"""What adapters, datasets and compositions have in common: references, removal, aliases."""

from dataclasses import asdict
from typing import Any, Generic

from sqlalchemy.orm import Session

from registry.database.database import Database
from registry.database.reader import reader_over
from registry.entities import Alias
from registry.files.artifacts import ArtifactStore
from registry.records import aliases, removal
from registry.records.kinds import Version, VersionedKind
from registry.records.lookup import find_version
from registry.records.resolution import ACTIVE_FIRST, ONLY_ACTIVE
from registry.records.uses import Use, uses_of


class Versioned(Generic[Version]):
    """Records of one kind that have versions and aliases; every method is one transaction."""

    def __init__(self, kind: VersionedKind[Version], database: Database, artifacts: ArtifactStore) -> None:
        self._kind = kind
        self._database = database
        self._artifacts = artifacts

    def get(self, reference: str, *, include_deleted: bool = False) -> Version:
        """The version that a reference means; the newest one where it leaves a choice.

        Raises:
            NotFound: of the kind's own class, with what is there instead.
            InvalidReference: the text is no reference, or its digest fits several versions.
        """
        states = ACTIVE_FIRST if include_deleted else ONLY_ACTIVE
        with self._database.read() as session:
            return self._kind.as_record(find_version(session, self._kind, reference, states=states))

    def uses(self, reference: str) -> tuple[Use, ...]:
        """Everything that refers to a version, even a removed one: see `records.uses`."""
        with self._database.read() as session:
            return uses_of(reader_over(session), self._kind.name, reference)

    def remove(self, reference: str) -> Version:
        """Remove a version; `restore` brings it back.

        Raises:
            InUse: something else needs it; the error names what.
            NotFound: there is no such version.
        """
        with self._database.write() as session:
            return self._kind.as_record(removal.remove_version(session, self._kind, reference))

    def restore(self, reference: str) -> Version:
        """Bring back what `remove` took away.

        Raises:
            Conflict: it needs something that was removed itself; the error says how to bring that back.
            NotFound: there is no such version.
        """
        with self._database.write() as session:
            return self._kind.as_record(removal.restore_version(session, self._kind, reference))

    def set_alias(
        self,
        name: str,
        alias: str,
        version: int | None,
        *,
        expected: int | None = None,
        reason: str | None = None,
    ) -> Alias:
        """Point an alias to a version, None for nothing; `expected` 0 means that it must not exist yet.

        Raises:
            AliasMoved: it does not point to the expected version; nothing was changed.
            NotFound: there is no such name or version.
        """
        with self._database.write() as session:
            return aliases.move_alias(
                session, self._kind, name, alias, version=version, expected=expected, reason=reason
            )

    def aliases(self, name: str) -> tuple[Alias, ...]:
        """Where the aliases of a name point now."""
        with self._database.read() as session:
            return aliases.current_aliases(session, self._kind, name)

    def alias_history(self, name: str) -> tuple[Alias, ...]:
        """Every move of the aliases of a name, the oldest first."""
        with self._database.read() as session:
            return aliases.alias_history(session, self._kind, name)

    def details(self, reference: str) -> dict[str, Any]:
        """Everything known of a version, a removed one too: its fields, its aliases, what refers to it.

        Raises:
            NotFound: of the kind's own class, with what is there instead.
            InvalidReference: the text is no reference, or its digest fits several versions.
        """
        with self._database.read() as session:
            row = find_version(session, self._kind, reference, states=ACTIVE_FIRST)
            record = self._kind.as_record(row)
            pointing = aliases.current_aliases(session, self._kind, record.name)
            return {
                "reference": record.reference,
                **asdict(record),
                "aliases": [alias.alias for alias in pointing if alias.version == record.version],
                **self._related(session, record),
            }

    def _related(self, session: Session, record: Version) -> dict[str, Any]:  # noqa: ARG002 - for the others
        """What refers to a version, by name; nothing, unless the kind says more."""
        return {}
