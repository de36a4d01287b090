"""Every adapter below a folder at once, as names or versions; what is beside and above is on its record."""

import json
from pathlib import Path

import pytest

from registry.entities import BaseModel
from registry.errors import InvalidAdapter
from registry.service import Registry
from tests.registry.folders import write_adapter
from tests.registry.listed import listed

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for seed, name in enumerate(["law", "poems/v 2"]):
        write_adapter(tmp_path / "repo" / name, seed=seed)
    (tmp_path / "repo" / "README.md").write_text("---\nlicense: mit\n---\n")
    return tmp_path / "repo"


def test_all_below_become_names(registry: Registry, pico: BaseModel, repository: Path) -> None:
    made = registry.adapters.register_every(repository, name="acme", all_as="names")
    assert [record.reference for record in made] == ["acme-law@1", "acme-poems-v-2@1"]
    assert [record.origin for record in made] == ["file:repo/law", "file:repo/poems/v 2"]


def test_all_below_become_versions_in_the_order_of_their_numbers(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    for step in (1000, 900):
        write_adapter(tmp_path / "out" / f"checkpoint-{step}", seed=step)
    made = registry.adapters.register_every(tmp_path / "out", name="bio", all_as="versions")
    assert [record.reference for record in made] == ["bio@1", "bio@2"]
    assert registry.adapters.get("bio").origin == "file:out/checkpoint-1000"


def test_one_that_is_refused_keeps_all_out_and_every_one_is_named(
    registry: Registry, pico: BaseModel, repository: Path
) -> None:
    write_adapter(repository / "a", use_dora=True)
    write_adapter(repository / "b", hidden=4)
    with pytest.raises(
        InvalidAdapter, match=r"2 of 4 adapters .*\n  a: ZOO-E241 .*use_dora.*\n  b: ZOO-E270 "
    ):
        registry.adapters.register_every(repository, name="acme", all_as="names")
    assert listed(registry.adapters) == []


def test_a_folder_without_any_is_refused(registry: Registry, pico: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match="holds no adapter, and no folder below"):
        registry.adapters.register_every(tmp_path, name="acme", all_as="names")


def test_licence_and_card_come_from_above_where_there_is_none_of_its_own(
    registry: Registry, pico: BaseModel, repository: Path
) -> None:
    (repository / "poems" / "v 2" / "LICENSE").write_text("own")
    law = registry.adapters.register(repository, subfolder="law", name="law")
    poems = registry.adapters.register(repository, subfolder="poems/v 2", name="poems")
    assert (law.licence, poems.licence) == ("mit", "mit")
    assert [file.path for file in law.files][:1] == ["README.md"]
    (repository / "poems" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    assert registry.adapters.register(repository, subfolder="poems/v 2", name="p").licence == "cc-by-4.0"


def test_a_trainer_s_state_is_on_the_record(registry: Registry, pico: BaseModel, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    log = [{"loss": 2.0}, {"loss": 1.0}]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 60, "log_history": log}))
    made = registry.adapters.register(folder, name="bio", parameters={"epochs": 3})
    assert made.parameters == {
        "trainer_state": {"steps": 60, "first_loss": 2.0, "last_loss": 1.0},
        "epochs": 3,
    }
    assert not any("trainer_state" in warning for warning in made.warnings)


def test_without_a_state_of_its_own_that_of_the_newest_checkpoint_is_taken_and_named(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a")
    for step in (9, 10):
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    made = registry.adapters.register(folder, name="bio")
    assert made.parameters == {"trainer_state": {"steps": 10, "of": "checkpoint-10"}}
