"""Resolving a reference to a record, or to an error that names similar ones.

The one implementation, for lists and for single records: plain SQL, which runs with or without SQLAlchemy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.database.reader import Reader, Row
from registry.errors import (
    AdapterNotFound,
    AliasNotFound,
    BaseNotFound,
    CompositionNotFound,
    DatasetNotFound,
    InvalidReference,
    NotFound,
)
from registry.references import Reference, nearest, parse

ACTIVE = "active"
DELETED = "deleted"

#: States in which a reference may find a record, the preferred one first.
ONLY_ACTIVE = (ACTIVE,)
ACTIVE_FIRST = (ACTIVE, DELETED)
DELETED_FIRST = (DELETED, ACTIVE)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a kind of versioned record is called, in its tables too, and which digest selects a version."""

    name: str
    #: Column that `name@sha256:…` selects by.
    digest: str
    not_found: type[NotFound]

    @property
    def versions(self) -> str:
        """SQL of its versions `v` with their names `n`."""
        return f"{self.name}_version v JOIN {self.name} n ON n.id = v.{self.name}_id"


ADAPTER = Kind(name="adapter", digest="weights_digest", not_found=AdapterNotFound)
DATASET = Kind(name="dataset", digest="digest", not_found=DatasetNotFound)
COMPOSITION = Kind(name="composition", digest="content_digest", not_found=CompositionNotFound)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A record by its number in the database and by the reference that always means it."""

    id: int
    reference: str


def find_version(reader: Reader, kind: Kind, text: str, *, states: Sequence[str] = ONLY_ACTIVE) -> Found:
    """The version that a reference means; the newest if it leaves a choice.

    Raises:
        NotFound: of the kind's own class, with similar names.
        InvalidReference: the text is no reference, or its digest fits several versions.
    """
    reference = parse(text)
    candidates = _versions(reader, kind, reference)
    chosen = _preferred(candidates, states)
    if not chosen:
        raise _missing_version(reader, kind, reference, candidates)
    _refuse_ambiguous(reference, chosen)
    return Found(id=chosen[0]["id"], reference=f"{chosen[0]['name']}@{chosen[0]['version']}")


def find_base(reader: Reader, text: str, *, states: Sequence[str] = ONLY_ACTIVE) -> Found:
    """The base model of a name or digest.

    Raises:
        BaseNotFound: no base model in these states has it.
        InvalidReference: the text is no reference, or its digest fits several base models.
    """
    reference = parse(text)
    candidates = _bases(reader, reference)
    if candidates and (reference.version is not None or reference.alias is not None):
        raise BaseNotFound(text, detail="base models have neither versions nor aliases")
    chosen = _preferred(candidates, states)
    if candidates and not chosen:
        raise BaseNotFound(text, detail=f"it was removed; bring it back with: zoo bases restore {text}")
    if not chosen:
        known = reader.rows("SELECT name FROM base_model WHERE state = ?", (ACTIVE,))
        raise BaseNotFound(text, nearest=nearest(reference.name or "", (base["name"] for base in known)))
    _refuse_ambiguous(reference, chosen)
    return Found(id=chosen[0]["id"], reference=chosen[0]["name"])


def _versions(reader: Reader, kind: Kind, reference: Reference) -> list[Row]:
    """Every version that the reference matches, including removed ones, the newest first."""
    conditions: list[tuple[str, object]] = []
    if reference.name is not None:
        conditions.append(("n.name = ?", reference.name))
    if reference.version is not None:
        conditions.append(("v.version = ?", reference.version))
    if reference.alias is not None:
        conditions.append(("v.version = ?", _version_of_alias(reader, kind, reference)))
    conditions += _within(f"v.{kind.digest}", reference.digest_prefix)
    return reader.rows(
        f"SELECT v.id, n.name, v.version, v.state, v.{kind.digest} AS digest FROM {kind.versions}"  # noqa: S608
        f" WHERE {' AND '.join(text for text, _ in conditions)} ORDER BY v.version DESC, v.id DESC",
        [value for _, value in conditions],
    )


def _bases(reader: Reader, reference: Reference) -> list[Row]:
    """Every base model that the reference matches, including removed ones, the newest first."""
    conditions: list[tuple[str, object]] = [] if reference.name is None else [("name = ?", reference.name)]
    conditions += _within("digest", reference.digest_prefix)
    return reader.rows(
        "SELECT id, name, state, digest FROM base_model"  # noqa: S608
        f" WHERE {' AND '.join(text for text, _ in conditions)} ORDER BY id DESC",
        [value for _, value in conditions],
    )


def _within(column: str, digest_prefix: str | None) -> list[tuple[str, object]]:
    """Conditions of a digest that begins so: a range, for which an index serves."""
    if digest_prefix is None:
        return []
    first = f"sha256:{digest_prefix}"
    return [(f"{column} >= ?", first), (f"{column} < ?", f"{first}g")]  # g: after every hexadecimal digit


def _version_of_alias(reader: Reader, kind: Kind, reference: Reference) -> int:
    rows = reader.rows(
        "SELECT alias, version FROM alias WHERE kind = ? AND name = ?", (kind.name, reference.name)
    )
    aliases: dict[str, int] = {row["alias"]: row["version"] for row in rows}
    if reference.alias in aliases:
        return aliases[reference.alias]
    if not reader.rows(f"SELECT id FROM {kind.name} WHERE name = ?", (reference.name,)):  # noqa: S608
        raise _missing_version(reader, kind, reference, [])
    raise AliasNotFound(
        reference,
        nearest=nearest(reference.alias or "", aliases),
        command=f"zoo {kind.name}s show {reference.name}",
    )


def _preferred(candidates: Sequence[Row], states: Sequence[str]) -> list[Row]:
    """The records in the first state that any of them has."""
    for state in states:
        found = [row for row in candidates if row["state"] == state]
        if found:
            return found
    return []


def _missing_version(reader: Reader, kind: Kind, reference: Reference, removed: Sequence[Row]) -> NotFound:
    """The error for a reference that matches nothing, or only removed versions."""
    if removed:
        target = f"{reference.name or ''}@{removed[0]['version']}"
        return kind.not_found(
            reference, detail=f"it was removed; bring it back with: zoo {kind.name}s restore {target}"
        )
    active = f"FROM {kind.versions} WHERE v.state = ?"
    numbers = reader.rows(
        f"SELECT v.version {active} AND n.name = ? ORDER BY v.version",
        (ACTIVE, reference.name),
    )
    if numbers:
        listed = ", ".join(str(row["version"]) for row in numbers)
        return kind.not_found(reference, detail=f"{reference.name} has version {listed}")
    names = reader.rows(f"SELECT DISTINCT n.name {active}", (ACTIVE,))
    return kind.not_found(reference, nearest=nearest(reference.name or "", (row["name"] for row in names)))


def _refuse_ambiguous(reference: Reference, chosen: Sequence[Row]) -> None:
    digests = {str(row["digest"]) for row in chosen}
    if reference.digest_prefix is not None and len(digests) > 1:
        listed = ", ".join(sorted(digest[:19] for digest in digests))
        raise InvalidReference(f"{str(reference)!r} fits {listed}; give more of the digest")
