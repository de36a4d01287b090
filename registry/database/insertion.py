"""INSERT … ON CONFLICT, in both databases' dialects.

Two writers may insert the same row at once; only the database can tell which was first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.database.table import Table


def insert_or_ignore(
    session: Session, table: type[Table], columns: Mapping[str, Any], *, unique: Sequence[str] = ()
) -> sqlite.Insert | postgresql.Insert:
    """A statement that adds the row, or does nothing if a row with the same `unique` columns exists.

    Without `unique`, a conflict with any constraint of the table counts.
    """
    return (
        _insert(session, table).values(**columns).on_conflict_do_nothing(index_elements=list(unique) or None)
    )


def insert_or_update(
    session: Session, table: type[Table], columns: Mapping[str, Any], *, unique: Sequence[str]
) -> sqlite.Insert | postgresql.Insert:
    """A statement that adds the row, or overwrites the one with the same `unique` columns."""
    statement = _insert(session, table).values(**columns)
    kept = {name: statement.excluded[name] for name in columns if name not in unique}
    return statement.on_conflict_do_update(index_elements=list(unique), set_=kept)


def _insert(session: Session, table: type[Table]) -> sqlite.Insert | postgresql.Insert:
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)
