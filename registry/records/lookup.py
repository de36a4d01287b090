"""From a reference to the row it means, or to an error that says what is there instead. Changes nothing."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from registry.entities import BaseModel
from registry.errors import AliasNotFound, BaseNotFound, InvalidReference, NotFound
from registry.records.kinds import VersionedKind
from registry.records.models import AliasRow, BaseModelRow
from registry.records.record_rows import as_base
from registry.references import Reference, nearest, parse

ACTIVE = "active"
DELETED = "deleted"


#: States a reference may find, the preferred one first.
ONLY_ACTIVE = (ACTIVE,)
ACTIVE_FIRST = (ACTIVE, DELETED)
DELETED_FIRST = (DELETED, ACTIVE)


def find_version(
    session: Session, kind: VersionedKind[Any], text: str, *, states: Sequence[str] = ONLY_ACTIVE
) -> Any:
    """The version row that a reference means; the newest one where it leaves a choice.

    Raises:
        NotFound: of the kind's own class, with what is there instead.
        InvalidReference: the text is no reference, or its digest fits several versions.
    """
    reference = parse(text)
    rows = session.scalars(_candidates(session, kind, reference)).all()
    chosen = _preferred(rows, states)
    if not chosen:
        raise _missing(session, kind, reference, removed=[row.version for row in rows])
    _refuse_ambiguous(reference, {getattr(row, kind.digest) for row in chosen})
    return chosen[0]


def find_base(session: Session, text: str, *, states: Sequence[str] = ONLY_ACTIVE) -> BaseModelRow:
    """The base model of a name or digest.

    Raises:
        BaseNotFound: there is none in one of the states.
        InvalidReference: the text is no reference, or its digest fits several base models.
    """
    reference = parse(text)
    wanted = select(BaseModelRow).order_by(BaseModelRow.id.desc())
    if reference.name is not None:
        wanted = wanted.where(BaseModelRow.name == reference.name)
    if reference.digest_prefix is not None:
        wanted = wanted.where(BaseModelRow.digest.startswith(f"sha256:{reference.digest_prefix}"))
    rows = session.scalars(wanted).all()
    names = session.scalars(select(BaseModelRow.name).where(BaseModelRow.state == ACTIVE)).all()
    if rows and (reference.version is not None or reference.alias is not None):
        raise BaseNotFound(text, detail="base models have neither versions nor aliases")
    chosen: list[BaseModelRow] = _preferred(rows, states)
    if rows and not chosen:
        raise BaseNotFound(text, detail=f"it was removed; bring it back with: zoo bases restore {text}")
    if not chosen:
        raise BaseNotFound(text, nearest=nearest(reference.name or "", names))
    _refuse_ambiguous(reference, {row.digest for row in chosen})
    return chosen[0]


def active_bases(session: Session) -> tuple[BaseModel, ...]:
    """Every base model that was not removed, by name, with its modules: what a new adapter may be for."""
    wanted = select(BaseModelRow).where(BaseModelRow.state == ACTIVE).order_by(BaseModelRow.name)
    return tuple(as_base(row) for row in session.scalars(wanted))


def _preferred(rows: Sequence[Any], states: Sequence[str]) -> list[Any]:
    """The rows in the first of the states that any is in."""
    for state in states:
        found = [row for row in rows if row.state == state]
        if found:
            return found
    return []


def _candidates(session: Session, kind: VersionedKind[Any], reference: Reference) -> Select[Any]:
    """Every version the reference could mean, removed ones too, the newest first."""
    versions, names = kind.versions, kind.names
    wanted: Select[Any] = select(versions).join(names, getattr(versions, kind.name_key) == names.id)
    if reference.name is not None:
        wanted = wanted.where(names.name == reference.name)
    if reference.version is not None:
        wanted = wanted.where(versions.version == reference.version)
    if reference.alias is not None:
        wanted = wanted.where(versions.version == _version_of_alias(session, kind, reference))
    if reference.digest_prefix is not None:
        wanted = wanted.where(getattr(versions, kind.digest).startswith(f"sha256:{reference.digest_prefix}"))
    return wanted.order_by(versions.version.desc(), versions.id.desc())


def _version_of_alias(session: Session, kind: VersionedKind[Any], reference: Reference) -> int:
    wanted = select(AliasRow).where(AliasRow.kind == kind.name, AliasRow.name == reference.name)
    aliases = {row.alias: row.version for row in session.scalars(wanted)}
    if reference.alias in aliases:
        return aliases[reference.alias]
    known = session.scalar(select(kind.names.id).where(kind.names.name == reference.name))
    if known is None:
        raise _missing(session, kind, reference, removed=[])
    raise AliasNotFound(
        reference,
        nearest=nearest(reference.alias or "", aliases),
        command=f"zoo {kind.name}s show {reference.name}",
    )


def _missing(
    session: Session, kind: VersionedKind[Any], reference: Reference, *, removed: list[int]
) -> NotFound:
    """The error for a reference that means nothing, or only removed versions."""
    if removed:
        target = f"{reference.name or ''}@{removed[0]}"
        return kind.not_found(
            reference, detail=f"it was removed; bring it back with: zoo {kind.name}s restore {target}"
        )
    versions, names = kind.versions, kind.names
    numbers = session.scalars(
        select(versions.version)
        .join(names, getattr(versions, kind.name_key) == names.id)
        .where(names.name == reference.name, versions.state == ACTIVE)
        .order_by(versions.version)
    ).all()
    if numbers:
        listed = ", ".join(str(number) for number in numbers)
        return kind.not_found(reference, detail=f"{reference.name} has version {listed}")
    active = select(names.name).join(versions, getattr(versions, kind.name_key) == names.id)
    all_names = session.scalars(active.where(versions.state == ACTIVE).distinct()).all()
    return kind.not_found(reference, nearest=nearest(reference.name or "", all_names))


def _refuse_ambiguous(reference: Reference, digests: set[str]) -> None:
    if reference.digest_prefix is not None and len(digests) > 1:
        listed = ", ".join(sorted(digest[:19] for digest in digests))
        raise InvalidReference(f"{str(reference)!r} fits {listed}; give more of the digest")
