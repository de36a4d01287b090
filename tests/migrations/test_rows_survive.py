"""Each revision that moves columns keeps what the rows before it held, up and down, on both databases."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text

from migrations import HEAD
from registry.database.database import Database
from registry.database.schema import migrate
from registry.service import Registry
from tests.services import settings_for

_NOW = "2026-11-01 10:00:00.000000"
_RECORD = {"state": "active", "created_at": _NOW}
_ADAPTERS = ((1, "bio"), (2, "protein"))


def _version_row(number: int, name: str) -> dict[str, object]:
    return {
        "id": number,
        "adapter_id": number,
        "version": 2,
        "base_id": 1,
        "rank": 8,
        "alpha": 16.0,
        "use_rslora": False,
        "rank_pattern": "{}",
        "alpha_pattern": "{}",
        "target_modules": '["q_proj"]',
        "modules": '["model.layers.0.q_proj","model.layers.1.q_proj"]',
        "parameter_count": 9,
        "size_bytes": 9,
        "dtype": "float32",
        "domains": '["biology", "cells"]' if name == "bio" else "[]",
        "tags": '["biology"]',
        "description": "Counts Caf\u00e9s",
        "origin": "file:x",
        "parameters": "{}",
        "weights_digest": "sha256:0e",
        "content_digest": "sha256:c1",
        "files": "[]",
        "warnings": "[]",
        **_RECORD,
    }


def _evaluation_row(number: int) -> dict[str, object]:
    return {
        "id": number,
        "subject": "adapter:bio@2",
        "task": "cells",
        "metric": "loss",
        "value": float(number),
        "n": 9,
        "dataset_digest": "sha256:da7a",
        "settings": "{}",
        "settings_digest": str(number),
        "created_at": f"2026-11-0{number} 10:00:00.000000",
    }


#: Rows of revision 0003, those first that others point to.
_ROWS: list[tuple[str, dict[str, object]]] = [
    *(
        (
            "job",
            {
                "id": number,
                "kind": "train",
                "state": "queued",
                "spec": json.dumps(spec),
                "spec_digest": "d",
                "queue": "cpu",
                "priority": 0,
                "attempt": 1,
                "max_attempts": 3,
                "fence": 5,
                "losses": 4,
                "memory_cuts": 0,
                "cancel_requested": False,
                "progress": "{}",
                "outcome": "{}",
                "event_count": 0,
                "created_at": _NOW,
            },
        )
        for number, spec in ((1, {"name": "bio", "processes": 2}), (2, {"name": "science"}))
    ),
    (
        "base_model",
        {
            "id": 1,
            "name": "pico",
            "digest": "sha256:ba5e",
            "weights_digest": "w",
            "config_digest": "c",
            "tokenizer_digest": "t",
            "architecture": "Llama",
            "hidden_size": 8,
            "layer_count": 2,
            "vocabulary_size": 32,
            "dtype": "F32",
            "parameter_count": 9,
            "size_bytes": 9,
            "source": "x",
            "modules": "{}",
            "files": "[]",
            **_RECORD,
        },
    ),
    ("dataset", {"id": 1, "name": "bio.train", "created_at": _NOW}),
    (
        "dataset_version",
        {
            "id": 7,
            "dataset_id": 1,
            "version": 3,
            "digest": "sha256:da7a",
            "rows": 24,
            "domain": "bio",
            "split": "train",
            "format": "chat",
            "origin": "file:bio",
            "size_bytes": 9,
            "files": "[]",
            "warnings": '["odd"]',
            **_RECORD,
        },
    ),
    *(("adapter", {"id": number, "name": name, "created_at": _NOW}) for number, name in _ADAPTERS),
    *(("adapter_version", _version_row(number, name)) for number, name in _ADAPTERS),
    *(("evaluation", _evaluation_row(number)) for number in (1, 2)),
    ("composition", {"id": 1, "name": "science", "created_at": _NOW}),
    (
        "composition_version",
        {
            "id": 5,
            "composition_id": 1,
            "version": 1,
            "method": "xlora",
            "base_id": 1,
            "head_config": '{"xlora_depth": 2, "top_k_lora": null}',
            "head_digest": "sha256:4ead",
            "content_digest": "sha256:c0",
            "report": "{}",
            "files": "[]",
            "job_id": 2,
            **_RECORD,
        },
    ),
    *(
        (
            "alias",
            {"id": number, "kind": kind, "name": name, "alias": "best", "version": version, column: target},
        )
        for number, kind, name, version, column, target in (
            (1, "composition", "science", 1, "composition_version_id", 5),
            (2, "dataset", "bio.train", 3, "dataset_version_id", 7),
            (3, "adapter", "bio", 2, "adapter_version_id", 1),
        )
    ),
]


_EXPERT = "INSERT INTO expert VALUES (5, 0, 'bio', 1, 'sha256:0e')"


def _insert(connection: Connection) -> None:
    for table, columns in _ROWS:
        names, values = ", ".join(columns), ", ".join(f":{name}" for name in columns)
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), columns)  # noqa: S608
    connection.execute(text(_EXPERT))


def _all(connection: Connection, table: str) -> list[dict[str, Any]]:
    rows = connection.execute(text(f"SELECT * FROM {table} ORDER BY id")).mappings()  # noqa: S608
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: object) -> object:
    """JSON columns come as text from SQLite."""
    return json.loads(value) if isinstance(value, str) and value[:1] in ("{", "[") else value


@pytest.fixture
def before(empty_database_url: str, tmp_path: Path) -> Database:
    """A database of revision 0003 that holds a row in every table that the next ones change."""
    database = Database(settings_for(empty_database_url, home=tmp_path))
    with database.writing_connection() as connection:
        migrate(connection, to="0003")
        _insert(connection)
    return database


def test_what_was_there_is_read_under_its_new_names(
    before: Database, empty_database_url: str, tmp_path: Path
) -> None:
    before.close()
    with Registry.open(settings_for(empty_database_url, home=tmp_path)) as registry:
        trained, composed = registry.jobs.get(1), registry.jobs.get(2)
        assert (trained.lost_attempts, trained.processes, composed.processes) == (4, 2, 1)
        assert trained.compute_dtype is None
        dataset = registry.datasets.get("bio.train@best")
        assert (dataset.id, dataset.examples, dataset.warnings) == (7, 24, ("odd",))
        composition = registry.compositions.get("science@best")
        assert composition.method_details == {
            "head": "sha256:4ead",
            "config": {"xlora_depth": 2, "top_k_lora": None},
        }
        assert [expert.adapter_reference for expert in composition.experts] == ["bio@2"]
        adapter = registry.adapters.get("bio@best")
        assert (adapter.target_modules, len(adapter.modules)) == (("q_proj",), 2)
        assert (adapter.domains, adapter.tags) == (("biology", "cells"), ("biology",))
        (best, other) = registry.adapters.list(sort="eval:cells")
        assert (best["reference"], best["score"], other["score"]) == ("bio@2", 2.0, None)


def test_adapters_share_their_modules_and_are_found_by_their_words(before: Database) -> None:
    with before as database, database.writing_connection() as connection:
        migrate(connection, to=HEAD)
        assert len(_all(connection, "adapter_modules")) == 1
        words = connection.execute(text("SELECT words FROM adapter_text ORDER BY adapter_version_id"))
        assert [row.words for row in words] == [
            "bio biology cells counts cafes",
            "protein biology counts cafes",
        ]


def test_going_down_gives_back_what_was_there(before: Database) -> None:
    tables = dict.fromkeys(table for table, _ in _ROWS)
    with before as database, database.writing_connection() as connection:
        held = {table: _all(connection, table) for table in tables}
        migrate(connection, to=HEAD)
        migrate(connection, to="0003")
        assert {table: _all(connection, table) for table in tables} == held
