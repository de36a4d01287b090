"""Removing and restoring records: a mark on the row, refused while another record needs it.

Nothing is erased: a version number is never reused, and files stay in the store.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.errors import Conflict, InUse
from registry.records.kinds import ADAPTER, COMPOSITION, VersionedKind
from registry.records.lookup import find_base, find_version
from registry.records.models import (
    AdapterRow,
    AdapterVersionRow,
    AliasRow,
    BaseModelRow,
    CompositionRow,
    CompositionVersionRow,
    ExpertRow,
)
from registry.records.resolution import ACTIVE, ACTIVE_FIRST, DELETED, DELETED_FIRST


def remove_version(session: Session, kind: VersionedKind[Any], reference: str) -> Any:
    """Mark a version as removed; removing it again changes nothing.

    Raises:
        InUse: a composition has it as an expert, or an alias points to it.
    """
    row = find_version(session, kind, reference, states=ACTIVE_FIRST)
    _lock(session, row)
    name = f"{getattr(row, kind.name).name}@{row.version}"
    if kind is ADAPTER:
        _refuse_if_used(name, _compositions_with_expert(session, row.id), "zoo compositions rm")
    aliases = session.scalars(select(AliasRow).where(getattr(AliasRow, kind.alias_key) == row.id)).all()
    if aliases:
        users = [f"the alias {alias.name}@{alias.alias}" for alias in aliases]
        raise InUse(name, users=users, remedy=f"move them first: zoo {kind.name}s alias --help")
    row.state = DELETED
    return row


def restore_version(session: Session, kind: VersionedKind[Any], reference: str) -> Any:
    """Remove the mark; restoring a record that was not removed changes nothing.

    Raises:
        Conflict: its base model or an expert is removed.
    """
    row = find_version(session, kind, reference, states=DELETED_FIRST)
    _lock(session, row)
    name = f"{getattr(row, kind.name).name}@{row.version}"
    needs = _removed_needs(row) if kind in (ADAPTER, COMPOSITION) else []
    if needs:
        raise Conflict(f"{name} needs records that were removed; restore them first: {'; '.join(needs)}")
    row.state = ACTIVE
    return row


def remove_base(session: Session, reference: str) -> BaseModelRow:
    """Mark a base model as removed; removing it again changes nothing.

    Raises:
        InUse: an adapter or composition is made for it.
    """
    row = find_base(session, reference, states=ACTIVE_FIRST)
    _lock(session, row)
    _refuse_if_used(row.name, _made_for(session, row.id), "zoo adapters rm")
    row.state = DELETED
    return row


def restore_base(session: Session, reference: str) -> BaseModelRow:
    """Remove the mark; restoring a record that was not removed changes nothing."""
    row = find_base(session, reference, states=ACTIVE_FIRST)
    row.state = ACTIVE
    return row


def _lock(session: Session, row: Any) -> None:
    # Composing locks an expert's row too, so that one of the two happens first.
    session.refresh(row, with_for_update={"of": type(row)})


def _compositions_with_expert(session: Session, adapter_version_id: int) -> list[str]:
    users = (
        select(CompositionRow.name, CompositionVersionRow.version)
        .join(CompositionVersionRow, CompositionVersionRow.composition_id == CompositionRow.id)
        .join(ExpertRow, ExpertRow.composition_version_id == CompositionVersionRow.id)
        .where(ExpertRow.adapter_version_id == adapter_version_id, CompositionVersionRow.state == ACTIVE)
        .order_by(CompositionRow.name, CompositionVersionRow.version)
    )
    return [f"{name}@{version}" for name, version in session.execute(users)]


def _made_for(session: Session, base_id: int) -> list[str]:
    adapters = (
        select(AdapterRow.name, AdapterVersionRow.version)
        .join(AdapterVersionRow, AdapterVersionRow.adapter_id == AdapterRow.id)
        .where(AdapterVersionRow.base_id == base_id, AdapterVersionRow.state == ACTIVE)
    )
    compositions = (
        select(CompositionRow.name, CompositionVersionRow.version)
        .join(CompositionVersionRow, CompositionVersionRow.composition_id == CompositionRow.id)
        .where(CompositionVersionRow.base_id == base_id, CompositionVersionRow.state == ACTIVE)
    )
    return [
        f"{name}@{version}" for users in (adapters, compositions) for name, version in session.execute(users)
    ]


def _removed_needs(row: Any) -> list[str]:
    """The removed records that the version needs, each with the command that restores it."""
    needs = [] if row.base.state == ACTIVE else [f"zoo bases restore {row.base.name}"]
    for expert in getattr(row, "experts", ()):
        version = expert.adapter_version
        if version.state != ACTIVE:
            needs.append(f"zoo adapters restore {version.adapter.name}@{version.version}")
    return needs


def _refuse_if_used(name: str, users: list[str], command: str) -> None:
    if users:
        raise InUse(name, users=users, remedy=f"remove them first: {command} {users[0]}")
