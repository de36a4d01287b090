"""Listing: the same rows from both drivers, filtered, sorted and bounded, and without SQLAlchemy."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, text

from registry.database.database import Database
from registry.database.reader import AT_ONCE, Reader, Row, open_reader
from registry.entities import AdapterVersion, BaseModel, ExpertRecord, NewEvaluation
from registry.errors import (
    BaseNotFound,
    DatabaseUnreachable,
    InvalidField,
    InvalidReference,
    InvalidSetting,
    SchemaMismatch,
)
from registry.jobs.models import JobRow
from registry.lists import queries
from registry.service import Registry
from registry.settings import Settings
from tests.registry.folders import XLORA, write_adapter, write_base, write_composition, write_dataset
from tests.services import settings_for


@pytest.fixture
def protein(registry: Registry, bio: AdapterVersion, tmp_path: Path) -> AdapterVersion:
    """Another adapter, of another domain."""
    return registry.adapters.register(
        write_adapter(tmp_path / "protein", seed=1), name="protein", domains=["protein", "biology"]
    )


@pytest.fixture
def reader(registry: Registry, settings: Settings) -> Iterator[Reader]:
    """A reader over the driver, as commands have it."""
    with open_reader(settings) as opened:
        yield opened


def _adapters(settings: Settings) -> list[Row]:
    with open_reader(settings) as opened:
        return queries.adapters(opened)


def _references(rows: list[dict[str, object]]) -> list[object]:
    return [row["reference"] for row in rows]


@pytest.mark.processes
def test_importing_it_imports_no_sqlalchemy() -> None:
    code = "import registry.lists.queries, sys; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("folding", ["protein@1"]),
        ("FOLD", ["protein@1"]),
        ("BIO", ["bio@1", "protein@1"]),
        ("biology protein", ["protein@1"]),
        ("études", ["protein@1"]),
        ("etude fold", ["protein@1"]),
        ('"quoted" & (odd) *', []),
        ("nothing", []),
    ],
)
def test_adapters_are_found_by_words_of_all_that_describes_them(
    registry: Registry, reader: Reader, bio: AdapterVersion, tmp_path: Path, search: str, found: list[str]
) -> None:
    folder = write_adapter(tmp_path / "protein", seed=1)
    (folder / "README.md").write_text("# How chains fold\n\nFolding; études.")
    registry.adapters.register(folder, name="protein", domains=["protein", "biology"], tags=["draft"])
    assert _references(queries.adapters(reader, search=search)) == found
    assert _references(queries.adapters(reader, tag="draft")) == ["protein@1"]
    assert queries.adapters(reader, tag="biology") == []


def test_a_search_for_no_word_is_refused(reader: Reader, bio: AdapterVersion) -> None:
    with pytest.raises(InvalidField, match="search must be a word or more"):
        queries.adapters(reader, search="--")


def test_an_adapter_is_shown_as_it_was_registered(
    registry: Registry, reader: Reader, bio: AdapterVersion
) -> None:
    registry.adapters.set_alias("bio", "champion", 1)
    registry.adapters.set_alias("bio", "best", 1)
    (row,) = queries.adapters(reader)
    same = (
        "id",
        "name",
        "version",
        "reference",
        "rank",
        "alpha",
        "licence",
        "size_bytes",
        "dtype",
    )
    assert {key: row[key] for key in same} == {key: getattr(bio, key) for key in same}
    assert (row["base"], row["domains"], row["tags"]) == ("pico", ["biology"], [])
    assert row["use_rslora"] is False
    assert row["created_at"] == bio.created_at
    assert row["aliases"] == ["best", "champion"]
    assert row["warnings"] == list(bio.warnings)


def test_adapters_are_filtered_by_base_model_and_domain(
    registry: Registry, reader: Reader, pico: BaseModel, protein: AdapterVersion, tmp_path: Path
) -> None:
    registry.bases.register(write_base(tmp_path / "wide", hidden=16), name="wide", source="file:wide")
    registry.adapters.register(
        write_adapter(tmp_path / "iron", hidden=16), name="iron", domains=["materials"]
    )
    assert _references(queries.adapters(reader)) == ["bio@1", "iron@1", "protein@1"]
    assert _references(queries.adapters(reader, base="pico")) == ["bio@1", "protein@1"]
    assert _references(queries.adapters(reader, base=pico.digest[:15])) == ["bio@1", "protein@1"]
    assert _references(queries.adapters(reader, domain="biology")) == ["bio@1", "protein@1"]
    assert _references(queries.adapters(reader, domain="protein", base="pico")) == ["protein@1"]
    assert queries.adapters(reader, domain="bio") == []
    with pytest.raises(BaseNotFound, match="did you mean pico"):
        queries.adapters(reader, base="picco")


def test_removed_ones_are_shown_on_request(
    registry: Registry, reader: Reader, protein: AdapterVersion
) -> None:
    registry.adapters.remove("bio")
    assert _references(queries.adapters(reader)) == ["protein@1"]
    shown = queries.adapters(reader, include_deleted=True)
    assert [(row["reference"], row["state"]) for row in shown] == [
        ("bio@1", "deleted"),
        ("protein@1", "active"),
    ]


def test_adapters_are_sorted_by_their_newest_score_the_best_first(
    registry: Registry, settings: Settings, reader: Reader, protein: AdapterVersion, tmp_path: Path
) -> None:
    registry.adapters.register(write_adapter(tmp_path / "iron", seed=2), name="iron")
    loss = NewEvaluation(
        subject="adapter:bio@1", task="cells", metric="loss", value=2.0, n=9, dataset_digest="sha256:aa"
    )
    registry.evaluations.record(
        [
            loss,
            replace(loss, subject="adapter:protein@1", value=1.0),
            replace(loss, metric="exact_match", value=0.9),
            replace(loss, metric="exact_match", value=0.5, subject="adapter:protein@1"),
            replace(loss, task="other", subject="adapter:iron@1", value=0.0),
        ]
    )
    by_loss = queries.adapters(reader, sort="eval:cells")
    assert [(row["reference"], row["score"]) for row in by_loss] == [
        ("protein@1", 1.0),
        ("bio@1", 2.0),
        ("iron@1", None),
    ]
    assert by_loss[0]["metric"] == "loss"
    by_match = queries.adapters(reader, sort="eval:cells:exact_match", limit=2)
    assert [(row["reference"], row["score"]) for row in by_match] == [("bio@1", 0.9), ("protein@1", 0.5)]

    registry.evaluations.record([replace(loss, value=0.5, settings={"limit": 5})])
    assert _references(queries.adapters(reader, sort="eval:cells"))[0] == "bio@1"

    registry.evaluations.record([replace(loss, subject="base:pico", task="of the base alone")])
    with pytest.raises(InvalidField, match="a score that an adapter has: eval:cells:exact_match"):
        queries.adapters(reader, sort="eval:of the base alone")


def test_the_newest_come_first_on_request(
    registry: Registry, reader: Reader, protein: AdapterVersion
) -> None:
    assert _references(queries.adapters(reader, sort="created")) == ["protein@1", "bio@1"]
    assert _references(queries.adapters(reader, sort="created", limit=1)) == ["protein@1"]


@pytest.mark.parametrize("sort", ["", "rank", "name; DROP TABLE job", "eval", "eval:", "score:cells"])
def test_only_known_orders_are_taken(reader: Reader, sort: str) -> None:
    with pytest.raises(InvalidField, match="eval:<task>"):
        queries.adapters(reader, sort=sort)


@pytest.mark.parametrize("value", ["' OR '1'='1", "%", "_", "\\", "?", "%s", "a' UNION SELECT 1 --"])
def test_what_sql_would_read_as_its_own_is_only_text(reader: Reader, bio: AdapterVersion, value: str) -> None:
    assert queries.adapters(reader, domain=value) == []
    assert queries.datasets(reader, domain=value) == []
    with pytest.raises(InvalidField, match="no adapter has a score"):
        queries.adapters(reader, sort=f"eval:{value}")
    with pytest.raises(InvalidReference):
        queries.adapters(reader, base=value)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_a_positive_number(reader: Reader, limit: int) -> None:
    with pytest.raises(InvalidField, match="limit must be at least 1"):
        queries.bases(reader, limit=limit)


def test_bases_datasets_and_compositions_are_shown(
    registry: Registry, reader: Reader, pico: BaseModel, protein: AdapterVersion, tmp_path: Path
) -> None:
    dataset = registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl"))
    registry.datasets.set_alias("bio.train", "latest", 1)
    experts = [
        ExpertRecord(
            position=position,
            name=adapter.name,
            adapter_reference=adapter.reference,
            weights_digest=adapter.weights_digest,
        )
        for position, adapter in enumerate((protein, registry.adapters.get("bio")))
    ]
    folder = write_composition(tmp_path / "science", ["protein", "bio"])
    registry.compositions.register(
        folder, name="science", base_digest=pico.digest, experts=experts, method=XLORA, report={}
    )

    (base,) = queries.bases(reader)
    assert (base["name"], base["digest"], base["created_at"]) == ("pico", pico.digest, pico.created_at)
    (row,) = queries.datasets(reader, domain="bio")
    assert (row["reference"], row["examples"], row["aliases"]) == (
        "bio.train@1",
        dataset.examples,
        ["latest"],
    )
    (composition,) = queries.compositions(reader, base="pico")
    assert (composition["reference"], composition["base"]) == ("science@1", "pico")
    assert composition["experts"] == ["protein@1", "bio@1"]


def test_jobs_are_shown_newest_first_and_by_state(registry: Registry, reader: Reader) -> None:
    first = registry.jobs.submit("train", {"name": "bio"})
    second = registry.jobs.submit("eval", {})
    registry.jobs.claim(first.id, owner="w", lease_s=3600)
    registry.jobs.beat(first.id, fence=1, lease_s=3600, progress={"step": 3, "total": 9})

    rows = queries.jobs(reader)

    assert [row["id"] for row in rows] == [second.id, first.id]
    assert (rows[1]["progress"], rows[1]["spec"]) == ({"step": 3, "total": 9}, {"name": "bio"})
    assert (rows[1]["cancel_requested"], rows[1]["finished_at"]) == (False, None)
    assert isinstance(rows[1]["lease_until"], datetime)
    assert rows[1]["lease_until"] > datetime.now(UTC)
    assert [row["id"] for row in queries.jobs(reader, states=["queued", "failed"])] == [second.id]
    assert [row["id"] for row in queries.jobs(reader, kind="train")] == [first.id]
    assert [row["id"] for row in queries.jobs(reader, limit=1)] == [second.id]
    assert [row["id"] for row in queries.jobs(reader, before=second.id)] == [first.id]
    with pytest.raises(InvalidField, match="queued, running"):
        queries.jobs(reader, states=["done"])


def test_lost_workers_are_found_by_the_databases_clock(registry: Registry, reader: Reader) -> None:
    jobs = [registry.jobs.submit("train", {}) for _ in range(3)]
    for job, lease_s in zip(jobs, (-40.0, 3600.0), strict=False):
        registry.jobs.claim(job.id, owner="w", lease_s=lease_s)
    assert [row["is_lost"] for row in queries.jobs(reader)] == [False, False, True]
    registry.workers.announce("w", host="box", process_id=7, queues=["cpu"], gpu=None, state="working")
    (worker,) = queries.workers(reader)
    assert isinstance(worker["read_at"], datetime)
    assert isinstance(worker["seen_at"], datetime)
    assert 0 <= (worker["read_at"] - worker["seen_at"]).total_seconds() < 60


def test_more_rows_than_are_read_at_once_come_in_order(database: Database, reader: Reader) -> None:
    count = 2 * AT_ONCE + 1
    columns = {"kind": "train", "spec_digest": "", "queue": "cpu", "priority": 0, "max_attempts": 3}
    specs: list[dict[str, object]] = [
        {"step": number, "words": ["a"] * (number % 3)} for number in range(count)
    ]
    with database.write() as session:
        session.execute(insert(JobRow), [{**columns, "spec": spec} for spec in specs])
    rows = queries.jobs(reader)
    assert [row["spec"] for row in rows] == specs[::-1]
    newer, older = rows[:AT_ONCE], rows[AT_ONCE:]
    assert queries.jobs(reader, limit=AT_ONCE) == newer
    assert queries.jobs(reader, before=newer[-1]["id"]) == older


def test_before_anything_was_registered_there_is_nothing_to_show(
    empty_database_url: str, tmp_path: Path
) -> None:
    settings = settings_for(empty_database_url, home=tmp_path / "home")
    shows = (queries.adapters, queries.bases, queries.datasets, queries.compositions, queries.jobs)
    with open_reader(settings) as reader:
        assert [show(reader) for show in shows] == [[]] * 5
    assert not settings.home.exists()


@pytest.mark.parametrize(("revision", "remedy"), [("0001", "zoo migrate"), ("9999", "pip install --upgrade")])
def test_another_releases_database_is_refused_with_the_way_out(
    settings: Settings, database: Database, revision: str, remedy: str
) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
    with pytest.raises(SchemaMismatch, match=remedy):
        _adapters(settings)


def test_a_database_that_cannot_be_read_is_said_to_be_unreachable(tmp_path: Path) -> None:
    (tmp_path / "zoo.db").mkdir()
    with pytest.raises(DatabaseUnreachable, match="cannot be read"):
        _adapters(settings_for(f"sqlite:///{tmp_path / 'zoo.db'}", home=tmp_path))


def test_a_file_that_is_no_database_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "zoo.db").write_text("no database at all, just some text that is long enough" * 100)
    with pytest.raises(InvalidSetting, match="is not a SQLite database"):
        _adapters(settings_for(f"sqlite:///{tmp_path / 'zoo.db'}", home=tmp_path))
    with pytest.raises(DatabaseUnreachable, match="does not answer") as refusal:
        _adapters(settings_for(f"postgresql://zoo:secret@/zoo?host={tmp_path}", home=tmp_path))
    assert "secret" not in str(refusal.value)
