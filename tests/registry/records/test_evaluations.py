"""Evaluations: one value for one measurement, of a record that exists."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select, update

from registry.database.database import Database
from registry.entities import AdapterVersion, BaseModel, NewEvaluation
from registry.errors import AdapterNotFound, InvalidField, InvalidReference, LeaseLost, NotFound
from registry.records.models import EvaluationRow
from registry.service import Registry

LOSS = NewEvaluation(
    subject="adapter:bio@1",
    task="biology",
    metric="loss",
    value=0.784,
    standard_error=0.01,
    n=120,
    dataset_digest=f"sha256:{'ab' * 32}",
    settings={"limit": 120},
)


def test_a_value_is_kept_with_all_that_belongs_to_it(registry: Registry, bio: AdapterVersion) -> None:
    registry.evaluations.record([LOSS])
    (kept,) = registry.evaluations.list()
    assert {field: getattr(kept, field) for field in NewEvaluation.__dataclass_fields__} == vars(LOSS)


def test_the_same_measurement_again_replaces_its_value(registry: Registry, bio: AdapterVersion) -> None:
    registry.evaluations.record([LOSS])
    registry.evaluations.record([replace(LOSS, value=0.75, run_id="run")])
    (kept,) = registry.evaluations.list()
    assert (kept.value, kept.run_id) == (0.75, "run")


def test_a_value_measured_again_is_the_newest(
    registry: Registry, database: Database, bio: AdapterVersion
) -> None:
    registry.evaluations.record([LOSS, replace(LOSS, metric="exact_match")])
    with database.write() as session:
        session.execute(update(EvaluationRow).values(created_at=datetime(2026, 1, 1, tzinfo=UTC)))
    registry.evaluations.record([LOSS])
    assert [kept.metric for kept in registry.evaluations.list()] == ["loss", "exact_match"]


@pytest.mark.parametrize("subject", ["adapter:bio@1", "base:pico"])
def test_of_values_recorded_at_once_one_is_the_newest(
    registry: Registry, database: Database, bio: AdapterVersion, subject: str
) -> None:
    measured = [replace(LOSS, subject=subject, settings={"limit": limit}) for limit in range(24)]
    with ThreadPoolExecutor(8) as recording:
        list(recording.map(lambda each: registry.evaluations.record([each]), measured))
    with database.read() as session:
        rows = session.scalars(select(EvaluationRow)).all()
    assert (len(rows), sum(row.is_newest for row in rows)) == (24, 1)


def test_another_metric_dataset_or_setting_is_another_measurement(
    registry: Registry, bio: AdapterVersion
) -> None:
    others = [
        replace(LOSS, metric="exact_match"),
        replace(LOSS, task="cells"),
        replace(LOSS, dataset_digest=f"sha256:{'cd' * 32}"),
        replace(LOSS, settings={"limit": None}),
    ]
    registry.evaluations.record([LOSS, *others])
    assert len(registry.evaluations.list()) == 5
    assert len(registry.evaluations.list(dataset_digest=LOSS.dataset_digest)) == 4
    assert len(registry.evaluations.list(task="cells")) == 1
    assert len(registry.evaluations.list("adapter:bio", task="biology")) == 4


def test_a_subject_is_recorded_as_what_it_means_now(
    registry: Registry, pico: BaseModel, bio: AdapterVersion
) -> None:
    registry.adapters.set_alias("bio", "champion", 1)
    registry.evaluations.record([replace(LOSS, subject="adapter:bio@champion")])
    registry.evaluations.record([replace(LOSS, subject="base:pico")])
    assert {value.subject for value in registry.evaluations.list()} == {"adapter:bio@1", "base:pico"}
    assert len(registry.evaluations.list("adapter:bio@champion")) == 1


def test_a_subject_that_is_not_registered_is_refused_and_none_is_kept(
    registry: Registry, bio: AdapterVersion
) -> None:
    with pytest.raises(AdapterNotFound):
        registry.evaluations.record([LOSS, replace(LOSS, subject="adapter:none@1")])
    assert registry.evaluations.list() == ()
    with pytest.raises(InvalidReference, match="adapter:bio@3"):
        registry.evaluations.record([replace(LOSS, subject="bio@1")])
    with pytest.raises(NotFound):
        registry.evaluations.list("composition:science")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"value": math.nan}, "value"),
        ({"value": math.inf}, "value"),
        ({"standard_error": -1.0}, "standard_error"),
        ({"standard_error": math.nan}, "standard_error"),
        ({"n": 0}, "n"),
    ],
)
def test_what_is_no_measurement_is_refused_by_field(
    registry: Registry, bio: AdapterVersion, change: dict[str, float], field: str
) -> None:
    with pytest.raises(InvalidField, match=f"^{field} must be"):
        registry.evaluations.record([replace(LOSS, **change)])  # type: ignore[arg-type]


def test_an_overtaken_job_records_nothing(registry: Registry, bio: AdapterVersion, tmp_path: Path) -> None:
    job = registry.jobs.submit("eval", {})
    stale = registry.jobs.claim(job.id, owner="first", lease_s=-1)
    held = registry.jobs.claim(job.id, owner="second", lease_s=3600)
    assert stale is not None
    assert held is not None
    measured = replace(LOSS, job_id=job.id)
    with pytest.raises(LeaseLost):
        registry.evaluations.record([measured], fence=stale.fence)
    assert registry.evaluations.list() == ()
    registry.evaluations.record([measured], fence=held.fence)
    assert registry.evaluations.list()[0].job_id == job.id
