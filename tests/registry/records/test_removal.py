"""Removing and restoring: nothing is lost, and nothing that others need can go."""

from pathlib import Path

import pytest

from registry.entities import AdapterVersion, BaseModel, CompositionVersion, ExpertRecord
from registry.errors import AdapterNotFound, Conflict, InUse
from registry.service import Registry
from tests.registry.folders import write_adapter, write_composition, write_dataset


@pytest.fixture
def science(registry: Registry, pico: BaseModel, bio: AdapterVersion, tmp_path: Path) -> CompositionVersion:
    """A composition with bio as its expert."""
    expert = ExpertRecord(
        position=0, name="bio", adapter_reference="bio@1", weights_digest=bio.weights_digest
    )
    folder = write_composition(tmp_path / "science", ["bio"])
    return registry.register_composition(
        folder, name="science", base_digest=pico.digest, experts=[expert], head_config={}, report={}
    )


def test_what_was_removed_comes_back_as_it_was(registry: Registry, bio: AdapterVersion) -> None:
    removed = registry.remove("bio@1", kind="adapter")
    assert removed.state == "deleted"
    assert registry.adapters() == ()
    assert registry.restore("bio@1", kind="adapter") == bio
    assert registry.adapters() == (bio,)


def test_doing_it_twice_changes_nothing(registry: Registry, bio: AdapterVersion) -> None:
    assert registry.remove("bio@1", kind="adapter") == registry.remove("bio@1", kind="adapter")
    assert registry.restore("bio@1", kind="adapter") == registry.restore("bio@1", kind="adapter")


def test_a_name_alone_means_the_newest_it_can_be_done_to(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    registry.register_adapter(write_adapter(tmp_path / "second", seed=1), name="bio")
    assert registry.remove("bio", kind="adapter").reference == "bio@2"
    assert registry.remove("bio", kind="adapter").reference == "bio@1"
    assert registry.restore("bio", kind="adapter").reference == "bio@2"


def test_an_adapter_stays_while_a_composition_has_it_as_an_expert(
    registry: Registry, science: CompositionVersion
) -> None:
    with pytest.raises(InUse, match=r"bio@1 is used by science@1.*zoo compositions rm science@1") as refusal:
        registry.remove("bio", kind="adapter")
    assert refusal.value.users == ("science@1",)
    assert registry.adapter("bio").state == "active"

    registry.remove("science", kind="composition")
    assert registry.remove("bio", kind="adapter").state == "deleted"


def test_a_composition_comes_back_after_its_experts(registry: Registry, science: CompositionVersion) -> None:
    registry.remove("science", kind="composition")
    registry.remove("bio", kind="adapter")
    with pytest.raises(Conflict, match="zoo adapters restore bio@1"):
        registry.restore("science", kind="composition")
    registry.restore("bio", kind="adapter")
    assert registry.restore("science", kind="composition") == science


def test_a_base_model_stays_while_something_is_made_for_it(
    registry: Registry, pico: BaseModel, bio: AdapterVersion
) -> None:
    with pytest.raises(InUse, match="pico is used by bio@1"):
        registry.remove("pico", kind="base")
    registry.remove("bio", kind="adapter")
    assert registry.remove("pico", kind="base").state == "deleted"
    assert registry.bases() == ()
    with pytest.raises(Conflict, match="zoo bases restore pico"):
        registry.restore("bio", kind="adapter")
    assert registry.restore("pico", kind="base") == pico
    assert registry.restore("bio", kind="adapter") == bio


def test_a_version_stays_while_an_alias_points_to_it(registry: Registry, bio: AdapterVersion) -> None:
    registry.set_alias("bio", "champion", 1)
    with pytest.raises(InUse, match="the alias bio@champion"):
        registry.remove("bio", kind="adapter")
    registry.set_alias("bio", "champion", None)
    assert registry.remove("bio", kind="adapter").state == "deleted"


def test_datasets_can_go_and_come_back(registry: Registry, tmp_path: Path) -> None:
    dataset = registry.register_dataset(write_dataset(tmp_path / "bio.train.jsonl"))
    registry.remove("bio.train", kind="dataset")
    assert registry.datasets() == ()
    assert registry.restore("bio.train", kind="dataset") == dataset


def test_what_is_not_there_cannot_be_removed(registry: Registry) -> None:
    with pytest.raises(AdapterNotFound):
        registry.remove("bio", kind="adapter")
    with pytest.raises(AdapterNotFound):
        registry.restore("bio", kind="adapter")
