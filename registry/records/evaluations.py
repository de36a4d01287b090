"""Evaluations: measured values of records on datasets. Measures nothing."""

import math
from collections.abc import Iterable
from typing import TypeAlias

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.database.insertion import insert_or_update
from registry.database.times import database_now
from registry.entities import Evaluation, NewEvaluation
from registry.errors import InvalidField, InvalidReference, NotFound
from registry.files.json_text import digest_of
from registry.records.kinds import KINDS
from registry.records.lookup import find_base, find_version
from registry.records.models import AdapterVersionRow, BaseModelRow, CompositionVersionRow, EvaluationRow
from registry.records.record_rows import as_evaluation, file_columns
from registry.records.resolution import ACTIVE_FIRST

_SubjectRow: TypeAlias = BaseModelRow | AdapterVersionRow | CompositionVersionRow
_IDENTITY = ("subject", "task", "metric", "dataset_digest", "settings_digest")


def record(session: Session, evaluation: NewEvaluation) -> None:
    """Store a measured value; it replaces an earlier one with the same settings on the same data.

    Raises:
        InvalidField: the value is not a finite number, or `n` is not positive.
        NotFound: the subject is not registered.
    """
    _check(evaluation)
    subject, row = _found_subject(session, evaluation.subject)
    _age_others(session, subject, row, evaluation)
    columns = {
        **{field: getattr(evaluation, field) for field in NewEvaluation.__dataclass_fields__},
        "subject": subject,
        "adapter_version_id": row.id if isinstance(row, AdapterVersionRow) else None,
        "is_newest": True,
        "settings": dict(evaluation.settings),
        "settings_digest": digest_of(dict(evaluation.settings)),
        "files": file_columns(evaluation.files),
        "created_at": database_now(),
    }
    session.execute(insert_or_update(session, EvaluationRow, columns, unique=_IDENTITY))


def recorded(
    session: Session,
    *,
    subject: str | None,
    dataset_digest: str | None,
    task: str | None,
    metric: str | None = None,
    limit: int | None = None,
) -> tuple[Evaluation, ...]:
    """The values of a subject, a dataset, a task, a metric or all, the newest first."""
    wanted = select(EvaluationRow).order_by(EvaluationRow.created_at.desc(), EvaluationRow.id.desc())
    if subject is not None:
        wanted = wanted.where(EvaluationRow.subject == canonical_subject(session, subject))
    if dataset_digest is not None:
        wanted = wanted.where(EvaluationRow.dataset_digest == dataset_digest)
    if task is not None:
        wanted = wanted.where(EvaluationRow.task == task)
    if metric is not None:
        wanted = wanted.where(EvaluationRow.metric == metric)
    if limit is not None:
        wanted = wanted.limit(limit)
    return tuple(as_evaluation(row) for row in session.scalars(wanted))


def found(session: Session, number: int) -> Evaluation:
    """The value of that number.

    Raises:
        NotFound: there is none.
    """
    row = session.get(EvaluationRow, number)
    if row is None:
        raise NotFound(number, detail="no evaluation has this number", command="zoo evals ls")
    return as_evaluation(row)


def measured_with(session: Session, evaluation: Evaluation) -> tuple[Evaluation, ...]:
    """The values of one measurement: one subject and task on the same data with the same settings."""
    wanted = select(EvaluationRow).where(
        EvaluationRow.subject == evaluation.subject,
        EvaluationRow.task == evaluation.task,
        EvaluationRow.dataset_digest == evaluation.dataset_digest,
        EvaluationRow.settings_digest == digest_of(dict(evaluation.settings)),
    )
    return tuple(as_evaluation(row) for row in session.scalars(wanted.order_by(EvaluationRow.id)))


def canonical_subject(session: Session, subject: str) -> str:
    """`adapter:bio@champion` as `adapter:bio@3`: the version that a subject means now.

    Raises:
        InvalidReference: the subject does not start with a kind.
        NotFound: there is no such record.
    """
    return _found_subject(session, subject)[0]


def _found_subject(session: Session, subject: str) -> tuple[str, _SubjectRow]:
    """The canonical subject and its row."""
    kind, _, reference = subject.partition(":")
    if kind == "base":
        base = find_base(session, reference, states=ACTIVE_FIRST)
        return f"base:{base.name}", base
    if kind not in KINDS:
        raise InvalidReference(
            f"{subject!r} names no subject; write adapter:bio@3, base:NAME or composition:NAME@1"
        )
    row = find_version(session, KINDS[kind], reference, states=ACTIVE_FIRST)
    return f"{kind}:{getattr(row, kind).name}@{row.version}", row


def _age_others(session: Session, subject: str, row: _SubjectRow, evaluation: NewEvaluation) -> None:
    """Take the mark of the newest from the value that has it."""
    # Two that are recorded at once cannot both be the newest.
    kind = type(row)
    session.execute(select(kind.id).where(kind.id == row.id).with_for_update())
    session.execute(
        update(EvaluationRow)
        .where(EvaluationRow.subject == subject, EvaluationRow.is_newest)
        .where(EvaluationRow.task == evaluation.task, EvaluationRow.metric == evaluation.metric)
        .values(is_newest=False)
    )


def job_ids(evaluations: Iterable[NewEvaluation]) -> set[int]:
    """The jobs that measured them."""
    return {evaluation.job_id for evaluation in evaluations if evaluation.job_id is not None}


def _check(evaluation: NewEvaluation) -> None:
    if not math.isfinite(evaluation.value):
        raise InvalidField("value", allowed="a finite number", value=evaluation.value)
    error = evaluation.standard_error
    if error is not None and not 0 <= error < math.inf:
        raise InvalidField("standard_error", allowed="a finite number of at least 0", value=error)
    if evaluation.n < 1:
        raise InvalidField("n", allowed="at least 1", value=evaluation.n)
