"""Details of a record: its fields and what refers to it, without loading what only refers."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from registry.database.database import Database
from registry.entities import AdapterVersion, BaseModel, CompositionVersion, ExpertRecord, NewEvaluation
from registry.errors import AdapterNotFound
from registry.nouns.adapters import Adapters
from registry.nouns.bases import Bases
from registry.nouns.datasets import Datasets
from registry.service import Registry
from tests.registry.folders import XLORA, write_adapter, write_composition, write_dataset


@pytest.fixture
def science(registry: Registry, pico: BaseModel, bio: AdapterVersion, tmp_path: Path) -> CompositionVersion:
    """A composition with bio as its expert, and a report."""
    expert = ExpertRecord(
        position=0, name="bio", adapter_reference="bio@1", weights_digest=bio.weights_digest
    )
    return registry.compositions.register(
        write_composition(tmp_path / "science", ["bio"]),
        name="science",
        base_digest=pico.digest,
        experts=[expert],
        method=XLORA,
        report={"worth_it": True},
    )


@pytest.fixture
def statements(database: Database) -> list[str]:
    """The SQL that the database runs, from now on."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    return seen


def test_an_adapter_is_given_with_what_refers_to_it(
    registry: Registry, bio: AdapterVersion, science: CompositionVersion
) -> None:
    registry.adapters.set_alias("bio", "champion", 1)
    measured = NewEvaluation(
        subject="adapter:bio@1", task="cells", metric="loss", value=2.0, n=9, dataset_digest="sha256:aa"
    )
    registry.evaluations.record([measured])
    details = registry.adapters.details("bio@champion")
    assert (details["reference"], details["rank"], details["aliases"]) == ("bio@1", bio.rank, ["champion"])
    assert details["expert_of"] == ["science@1"]
    assert [evaluation["value"] for evaluation in details["evaluations"]] == [2.0]
    with pytest.raises(AdapterNotFound):
        registry.adapters.details("bio@2")


def test_a_composition_is_given_with_its_report_and_its_experts(
    registry: Registry, science: CompositionVersion
) -> None:
    details = registry.compositions.details("science")
    assert (details["reference"], details["report"], details["aliases"]) == (
        "science@1",
        {"worth_it": True},
        [],
    )
    assert [expert["adapter_reference"] for expert in details["experts"]] == ["bio@1"]


@pytest.mark.usefixtures("science")
def test_what_only_refers_to_a_record_is_not_loaded(
    registry: Registry, database: Database, statements: list[str], tmp_path: Path
) -> None:
    registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl"))
    assert Adapters(database, registry.artifacts).details("bio")["expert_of"] == ["science@1"]
    assert Bases(database, registry.artifacts).details("pico")["adapters"] == ["bio@1"]
    assert Datasets(database, registry.artifacts).details("bio.train")["trained"] == []
    assert len(statements) > 3
    assert not [statement for statement in statements if "report" in statement]
    # One adapter is loaded with its modules, by its own number, and none in a list.
    assert len([statement for statement in statements if "target_modules" in statement]) == 1


def test_a_diff_has_what_differs_under_the_references_as_given(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    registry.adapters.register(write_adapter(tmp_path / "second", rank=4), name="bio")
    rows = {row["field"]: row for row in registry.adapters.diff("bio@1", "bio")}
    assert rows["rank"] == {"field": "rank", "bio@1": bio.rank, "bio": 4}
    assert "base_name" not in rows
    assert registry.adapters.diff("bio", "bio") == []
