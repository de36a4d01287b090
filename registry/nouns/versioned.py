"""What adapters, datasets and compositions have in common: references, removal, aliases."""

from typing import Generic

from registry.database.database import Database
from registry.entities import Alias
from registry.files.artifacts import ArtifactStore
from registry.records import aliases, removal
from registry.records.kinds import Version, VersionedKind
from registry.records.lookup import ACTIVE_FIRST, ONLY_ACTIVE, find_version
from registry.settings import Settings


class Versioned(Generic[Version]):
    """Records of one kind that have versions and aliases; every method is one transaction."""

    def __init__(
        self, kind: VersionedKind[Version], settings: Settings, database: Database, artifacts: ArtifactStore
    ) -> None:
        self._kind = kind
        self._settings = settings
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
