"""What refers to a record: asked for by people, and before the record is removed. Plain SQL, as lists are.

Some records *need* it: a composition its experts, an alias its version, an open job what it names. Others say
where they come from or what was measured, and lose nothing but a name that is still known.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from registry.database.reader import Reader, Row
from registry.jobs.states import TERMINAL_STATES
from registry.records.mentions import mentioned
from registry.records.resolution import (
    ACTIVE,
    ACTIVE_FIRST,
    ADAPTER,
    COMPOSITION,
    DATASET,
    Found,
    find_base,
    find_version,
)

_EXPERT_OF = """
SELECT n.name || '@' || v.version AS reference, v.state
FROM expert x
JOIN composition_version v ON v.id = x.composition_version_id
JOIN composition n ON n.id = v.composition_id
WHERE x.adapter_version_id = ? ORDER BY n.name, v.version
"""

_MADE_FOR = """
SELECT n.name || '@' || v.version AS reference, v.state
FROM {kind}_version v JOIN {kind} n ON n.id = v.{kind}_id
WHERE v.base_id = ? ORDER BY n.name, v.version
"""

_ALIASES = "SELECT name, alias FROM alias WHERE {kind}_version_id = ? ORDER BY alias"

_JOBS = """
SELECT id, kind, spec, state, outcome FROM job
WHERE CAST(spec AS TEXT) LIKE ? ESCAPE '!' {and_open} ORDER BY id
"""
_OPEN = f"AND state NOT IN ({', '.join(repr(state) for state in TERMINAL_STATES)})"

_DESCENDANTS = """
SELECT n.name || '@' || v.version AS reference, v.state, v.parameters
FROM adapter_version v JOIN adapter n ON n.id = v.adapter_id
WHERE CAST(v.parameters AS TEXT) LIKE ? ESCAPE '!' ORDER BY n.name, v.version
"""

_MEASURED = "SELECT subject, task, metric FROM evaluation WHERE subject = ? ORDER BY task, metric"

_MEASURED_ON = """
SELECT e.subject, e.task, e.metric
FROM evaluation e JOIN dataset_version v ON v.digest = e.dataset_digest
WHERE v.id = ? ORDER BY e.subject, e.task, e.metric
"""

_VERSIONED = {kind.name: kind for kind in (ADAPTER, COMPOSITION, DATASET)}

#: What a job leaves behind, in its outcome.
_OUTCOMES = ("adapter", "composition")


@dataclass(frozen=True, kw_only=True)
class Use:
    """One record that refers to another."""

    #: "alias", "composition", "adapter", "job" or "evaluation".
    kind: str
    #: `bio@champion`, `science@2`, `12` for a job, `adapter:bio@3` for an evaluation's subject.
    reference: str
    #: In which role: "expert", "trained from", "queued compose", the task and metric measured.
    how: str
    #: Of the record that refers: "active", "deleted", a job's state.
    state: str
    #: Whether it would stop working, so that removing is refused.
    needs: bool
    #: The command that ends the use; empty where it is not in the way.
    remedy: str = ""

    def __str__(self) -> str:
        """As errors name it."""
        names = {"alias": f"the alias {self.reference}", "job": f"job {self.reference} ({self.state})"}
        return names.get(self.kind, self.reference)


def needed_by(reader: Reader, kind: str, found: Found) -> tuple[Use, ...]:
    """The uses because of which the record cannot be removed; `kind` is that of the record."""
    uses = (*_of_records(reader, kind, found), *_of_jobs(reader, kind, found, only_open=True))
    return tuple(use for use in uses if use.needs)


def uses_of(reader: Reader, kind: str, reference: str) -> tuple[Use, ...]:
    """Everything that refers to a record, even a removed one; what needs it comes first.

    `kind` is "adapter", "base", "composition" or "dataset".

    Raises:
        NotFound: of the kind's own class, with what is there instead.
        InvalidReference: the text is no reference, or its digest fits several records.
    """
    found = _found(reader, kind, reference)
    uses = (
        *_of_records(reader, kind, found),
        *_of_jobs(reader, kind, found, only_open=False),
        *_of_descendants(reader, kind, found),
        *_of_evaluations(reader, kind, found),
    )
    return tuple(sorted(uses, key=lambda use: not use.needs))


def _found(reader: Reader, kind: str, reference: str) -> Found:
    if kind == "base":
        return find_base(reader, reference, states=ACTIVE_FIRST)
    return find_version(reader, _VERSIONED[kind], reference, states=ACTIVE_FIRST)


def _of_records(reader: Reader, kind: str, found: Found) -> Iterator[Use]:
    if kind == "adapter":
        yield from _needing(reader.rows(_EXPERT_OF, [found.id]), kind="composition", how="expert")
    if kind == "base":
        for made in ("adapter", "composition"):
            rows = reader.rows(_MADE_FOR.format(kind=made), [found.id])
            yield from _needing(rows, kind=made, how="made for it")
        return
    for row in reader.rows(_ALIASES.format(kind=kind), [found.id]):
        yield Use(
            kind="alias",
            reference=f"{row['name']}@{row['alias']}",
            how="points to it",
            state=ACTIVE,
            needs=True,
            remedy=f"zoo {kind}s alias {row['name']} {row['alias']} --remove",
        )


def _needing(rows: list[Row], *, kind: str, how: str) -> Iterator[Use]:
    for row in rows:
        needs = row["state"] == ACTIVE
        remedy = f"zoo {kind}s rm {row['reference']}" if needs else ""
        yield Use(kind=kind, how=how, needs=needs, remedy=remedy, **row)


def _of_jobs(reader: Reader, kind: str, found: Found, *, only_open: bool) -> Iterator[Use]:
    sql = _JOBS.format(and_open=_OPEN if only_open else "")
    for row in reader.rows(sql, [_containing(found.reference)]):
        fields = mentioned(row["spec"], kind=kind, reference=found.reference)
        if not fields:
            continue
        is_open = row["state"] not in TERMINAL_STATES
        made = [str(row["outcome"][name]) for name in _OUTCOMES if name in row["outcome"]]
        yield Use(
            kind="job",
            reference=str(row["id"]),
            how=" ".join([row["kind"], ", ".join(fields), *(f"→ {reference}" for reference in made)]),
            state=row["state"],
            needs=is_open,
            remedy=f"zoo jobs cancel {row['id']}" if is_open else "",
        )


def _of_descendants(reader: Reader, kind: str, found: Found) -> Iterator[Use]:
    if kind not in _MADE_FROM:
        return
    for row in reader.rows(_DESCENDANTS, [_containing(found.reference)]):
        fields = mentioned(row["parameters"], kind=kind, reference=found.reference)
        if fields:
            how = ", ".join(dict.fromkeys(_MADE_FROM[kind](field) for field in fields))
            yield Use(kind="adapter", reference=row["reference"], how=how, state=row["state"], needs=False)


def _of_evaluations(reader: Reader, kind: str, found: Found) -> Iterator[Use]:
    if kind == DATASET.name:
        rows = reader.rows(_MEASURED_ON, [found.id])
    else:
        rows = reader.rows(_MEASURED, [f"{kind}:{found.reference}"])
    for row in rows:
        how = f"{row['task']} {row['metric']}"
        yield Use(kind="evaluation", reference=row["subject"], how=how, state=ACTIVE, needs=False)


def _from_adapter(field: str) -> str:
    return "trained from it" if field == "initial_adapter" else "merged from it"


def _from_dataset(field: str) -> str:
    return "scored on it" if field == "eval_dataset" else "trained on it"


#: Kind of record -> what an adapter is to it whose parameters name it in a field.
_MADE_FROM: Mapping[str, Callable[[str], str]] = {"adapter": _from_adapter, "dataset": _from_dataset}


def _containing(reference: str) -> str:
    """A pattern of JSON that holds the reference as the end of a text; `_` and `%` mean themselves."""
    escaped = reference.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f'%{escaped}"%'
