"""Removing and restoring records: a mark on the row, refused while another record needs it.

Nothing is erased: a version number is never reused, and files stay in the store.
"""

from typing import Any

from sqlalchemy.orm import Session

from registry.database.reader import reader_over
from registry.errors import Conflict, InUse
from registry.records.kinds import ADAPTER, COMPOSITION, VersionedKind
from registry.records.lookup import find_base, find_version
from registry.records.models import BaseModelRow
from registry.records.resolution import ACTIVE, ACTIVE_FIRST, DELETED, DELETED_FIRST, Found
from registry.records.uses import needed_by

#: How many users an error names: a base model may have thousands.
_NAMED = 20


def remove_version(session: Session, kind: VersionedKind[Any], reference: str) -> Any:
    """Mark a version as removed; removing it again changes nothing.

    Raises:
        InUse: a composition has it as an expert, an alias points to it, or an open job names it.
    """
    row = find_version(session, kind, reference, states=ACTIVE_FIRST)
    _lock(session, row)
    _refuse_if_used(session, kind.name, Found(id=row.id, reference=_name_of(kind, row)))
    row.state = DELETED
    return row


def restore_version(session: Session, kind: VersionedKind[Any], reference: str) -> Any:
    """Remove the mark; restoring a record that was not removed changes nothing.

    Raises:
        Conflict: its base model or an expert is removed.
    """
    row = find_version(session, kind, reference, states=DELETED_FIRST)
    _lock(session, row)
    name = _name_of(kind, row)
    needs = _removed_needs(session, row) if kind in (ADAPTER, COMPOSITION) else []
    if needs:
        raise Conflict(f"{name} needs records that were removed; restore them first: {'; '.join(needs)}")
    row.state = ACTIVE
    return row


def remove_base(session: Session, reference: str) -> BaseModelRow:
    """Mark a base model as removed; removing it again changes nothing.

    Raises:
        InUse: an adapter or composition is made for it, or an open job names it.
    """
    row = find_base(session, reference, states=ACTIVE_FIRST)
    _lock(session, row)
    _refuse_if_used(session, "base", Found(id=row.id, reference=row.name))
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


def _name_of(kind: VersionedKind[Any], row: Any) -> str:
    return f"{getattr(row, kind.name).name}@{row.version}"


def _removed_needs(session: Session, row: Any) -> list[str]:
    """The removed records that the version needs, each with the command that restores it.

    Those that are there are kept from being removed until the transaction ends.
    """
    needs = [f"zoo bases restore {row.base.name}"] if _is_removed(session, row.base) else []
    for expert in getattr(row, "experts", ()):
        version = expert.adapter_version
        if _is_removed(session, version):
            needs.append(f"zoo adapters restore {version.adapter.name}@{version.version}")
    return needs


def _is_removed(session: Session, row: Any) -> bool:
    session.refresh(row, with_for_update={"of": type(row), "read": True})
    return bool(row.state != ACTIVE)


def _refuse_if_used(session: Session, kind: str, found: Found) -> None:
    needing = needed_by(reader_over(session), kind, found)
    if needing:
        remedy = f"end that first: {needing[0].remedy}; all of them: zoo {kind}s uses {found.reference}"
        more = [f"{len(needing) - _NAMED:,} more"] if len(needing) > _NAMED else []
        raise InUse(found.reference, users=[*(str(use) for use in needing[:_NAMED]), *more], remedy=remedy)
