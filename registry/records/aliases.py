"""Aliases: names that move from version to version, with their history."""

import getpass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.database.insertion import insert_or_update
from registry.entities import Alias
from registry.errors import AliasMoved, AliasNotFound
from registry.files.json_text import storable_text
from registry.records.kinds import VersionedKind
from registry.records.lookup import find_version
from registry.records.models import AliasMoveRow, AliasRow
from registry.references import checked_alias


def move_alias(
    session: Session,
    kind: VersionedKind[Any],
    name: str,
    alias: str,
    *,
    version: int | None,
    expected: int | None,
    reason: str | None,
) -> Alias:
    """Point an alias to a version, or to none, and record the move.

    `expected` is the version to which it must point now: 0 for none, None for any.

    Raises:
        AliasMoved: it points to another version.
        AliasNotFound: it is to be removed, but does not exist.
        NotFound: there is no such name or version.
    """
    checked_alias(alias)
    _lock_name(session, kind, name)
    pointer = select(AliasRow).where(
        AliasRow.kind == kind.name, AliasRow.name == name, AliasRow.alias == alias
    )
    previous = session.scalar(pointer.with_only_columns(AliasRow.version))
    target = f"{name}@{alias}"
    if expected is not None and expected != (previous or 0):
        raise AliasMoved(target, expected=expected, actual=previous)
    if version is None:
        if previous is None:
            raise AliasNotFound(target, command=f"zoo {kind.name}s show {name}")
        session.execute(delete(AliasRow).where(AliasRow.id.in_(pointer.with_only_columns(AliasRow.id))))
    else:
        _point(session, kind, name, alias, version=version)
    return _note(session, kind, name, alias, version=version, previous=previous, reason=reason)


def current_aliases(session: Session, kind: VersionedKind[Any], name: str) -> tuple[Alias, ...]:
    """Where a name's aliases point, each with its last move."""
    wanted = select(AliasRow.alias).where(AliasRow.kind == kind.name, AliasRow.name == name)
    pointing = set(session.scalars(wanted))
    last = {move.alias: move for move in alias_history(session, kind, name)}
    return tuple(last[alias] for alias in sorted(pointing))


def alias_history(session: Session, kind: VersionedKind[Any], name: str) -> tuple[Alias, ...]:
    """Every move of a name's aliases, the oldest first."""
    wanted = select(AliasMoveRow).where(AliasMoveRow.kind == kind.name, AliasMoveRow.name == name)
    return tuple(_as_alias(row) for row in session.scalars(wanted.order_by(AliasMoveRow.id)))


def _lock_name(session: Session, kind: VersionedKind[Any], name: str) -> None:
    # Serialises the moves of one name's aliases, so that reading, comparing and writing is one step.
    session.execute(select(kind.names.id).where(kind.names.name == name).with_for_update())


def _point(session: Session, kind: VersionedKind[Any], name: str, alias: str, *, version: int) -> None:
    row = find_version(session, kind, f"{name}@{version}")
    session.refresh(row, with_for_update={"of": kind.versions, "read": True})
    # Looked up again: it may have been removed while this waited for the lock.
    find_version(session, kind, f"{name}@{version}")
    columns = {
        "kind": kind.name,
        "name": name,
        "alias": alias,
        "version": version,
        kind.alias_key: row.id,
    }
    session.execute(insert_or_update(session, AliasRow, columns, unique=("kind", "name", "alias")))


def _note(
    session: Session,
    kind: VersionedKind[Any],
    name: str,
    alias: str,
    *,
    version: int | None,
    previous: int | None,
    reason: str | None,
) -> Alias:
    move = AliasMoveRow(
        kind=kind.name,
        name=name,
        alias=alias,
        version=version,
        previous=previous,
        moved_by=getpass.getuser(),
        reason=None if reason is None else storable_text(reason),
    )
    session.add(move)
    session.flush()
    return _as_alias(move)


def _as_alias(row: AliasMoveRow) -> Alias:
    return Alias(**{field: getattr(row, field) for field in Alias.__dataclass_fields__})
