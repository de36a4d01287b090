"""Removing and restoring: nothing is lost, and nothing that others need can go."""

from pathlib import Path

import pytest

from registry.entities import AdapterVersion, BaseModel, CompositionVersion, ExpertRecord
from registry.errors import AdapterNotFound, Conflict, InUse
from registry.service import Registry
from tests.registry.folders import XLORA, write_adapter, write_composition, write_dataset
from tests.registry.listed import listed


@pytest.fixture
def science(registry: Registry, pico: BaseModel, bio: AdapterVersion, tmp_path: Path) -> CompositionVersion:
    """A composition with bio as its expert."""
    expert = ExpertRecord(
        position=0, name="bio", adapter_reference="bio@1", weights_digest=bio.weights_digest
    )
    folder = write_composition(tmp_path / "science", ["bio"])
    return registry.compositions.register(
        folder, name="science", base_digest=pico.digest, experts=[expert], method=XLORA, report={}
    )


def test_what_was_removed_comes_back_as_it_was(registry: Registry, bio: AdapterVersion) -> None:
    removed = registry.adapters.remove("bio@1")
    assert removed.state == "deleted"
    assert listed(registry.adapters) == []
    assert registry.adapters.restore("bio@1") == bio
    assert listed(registry.adapters) == [bio.reference]


def test_doing_it_twice_changes_nothing(registry: Registry, bio: AdapterVersion) -> None:
    assert registry.adapters.remove("bio@1") == registry.adapters.remove("bio@1")
    assert registry.adapters.restore("bio@1") == registry.adapters.restore("bio@1")


def test_a_name_alone_means_the_newest_it_can_be_done_to(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    registry.adapters.register(write_adapter(tmp_path / "second", seed=1), name="bio")
    assert registry.adapters.remove("bio").reference == "bio@2"
    assert registry.adapters.remove("bio").reference == "bio@1"
    assert registry.adapters.restore("bio").reference == "bio@2"


def test_an_adapter_stays_while_a_composition_has_it_as_an_expert(
    registry: Registry, science: CompositionVersion
) -> None:
    with pytest.raises(InUse, match=r"bio@1 is used by science@1.*zoo compositions rm science@1") as refusal:
        registry.adapters.remove("bio")
    assert refusal.value.users == ("science@1",)
    assert registry.adapters.get("bio").state == "active"

    registry.compositions.remove("science")
    assert registry.adapters.remove("bio").state == "deleted"


def test_a_composition_comes_back_after_its_experts(registry: Registry, science: CompositionVersion) -> None:
    registry.compositions.remove("science")
    registry.adapters.remove("bio")
    with pytest.raises(Conflict, match="zoo adapters restore bio@1"):
        registry.compositions.restore("science")
    registry.adapters.restore("bio")
    assert registry.compositions.restore("science") == science


def test_a_base_model_stays_while_something_is_made_for_it(
    registry: Registry, pico: BaseModel, bio: AdapterVersion
) -> None:
    with pytest.raises(InUse, match="pico is used by bio@1"):
        registry.bases.remove("pico")
    registry.adapters.remove("bio")
    assert registry.bases.remove("pico").state == "deleted"
    assert listed(registry.bases) == []
    with pytest.raises(Conflict, match="zoo bases restore pico"):
        registry.adapters.restore("bio")
    assert registry.bases.restore("pico") == pico
    assert registry.adapters.restore("bio") == bio


def test_a_version_stays_while_an_alias_points_to_it(registry: Registry, bio: AdapterVersion) -> None:
    registry.adapters.set_alias("bio", "champion", 1)
    with pytest.raises(InUse, match="the alias bio@champion"):
        registry.adapters.remove("bio")
    registry.adapters.set_alias("bio", "champion", None)
    assert registry.adapters.remove("bio").state == "deleted"


def test_datasets_can_go_and_come_back(registry: Registry, tmp_path: Path) -> None:
    dataset = registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl"))
    registry.datasets.remove("bio.train")
    assert listed(registry.datasets) == []
    assert registry.datasets.restore("bio.train") == dataset


def test_what_is_not_there_cannot_be_removed(registry: Registry) -> None:
    with pytest.raises(AdapterNotFound):
        registry.adapters.remove("bio")
    with pytest.raises(AdapterNotFound):
        registry.adapters.restore("bio")
