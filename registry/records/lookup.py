"""From a reference to the row it means, in a transaction of SQLAlchemy's. Changes nothing."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.reader import reader_over
from registry.entities import BaseModel
from registry.records import resolution
from registry.records.kinds import VersionedKind
from registry.records.models import BaseModelRow
from registry.records.record_rows import as_base
from registry.records.resolution import ACTIVE, ONLY_ACTIVE


def find_version(
    session: Session, kind: VersionedKind[Any], text: str, *, states: Sequence[str] = ONLY_ACTIVE
) -> Any:
    """The version row that a reference means; raises as `resolution.find_version` does."""
    found = resolution.find_version(reader_over(session), kind.looked_up, text, states=states)
    return session.get_one(kind.versions, found.id)


def find_base(session: Session, text: str, *, states: Sequence[str] = ONLY_ACTIVE) -> BaseModelRow:
    """The base model of a name or digest; raises as `resolution.find_base` does."""
    return session.get_one(BaseModelRow, resolution.find_base(reader_over(session), text, states=states).id)


def active_bases(session: Session) -> tuple[BaseModel, ...]:
    """Every base model that was not removed, by name, with its modules: what a new adapter may be for."""
    wanted = select(BaseModelRow).where(BaseModelRow.state == ACTIVE).order_by(BaseModelRow.name)
    return tuple(as_base(row) for row in session.scalars(wanted))
