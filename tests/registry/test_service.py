"""Opening a registry: where it lives, who may read it, and that what goes in comes out bit for bit."""

import stat
from pathlib import Path

import pytest

from registry.entities import AdapterVersion
from registry.errors import DigestMismatch, InvalidSetting
from registry.service import Registry
from registry.settings import Settings
from tests.registry.folders import write_adapter, write_base, write_dataset
from tests.registry.listed import listed
from tests.services import settings_for


def test_opening_makes_a_folder_that_only_its_owner_may_enter(settings: Settings) -> None:
    assert not settings.home.exists()
    with Registry.open(settings) as registry:
        assert listed(registry.adapters) == []
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700


def test_opening_again_finds_what_was_registered(settings: Settings, tmp_path: Path) -> None:
    with Registry.open(settings) as registry:
        base = registry.bases.register(write_base(tmp_path / "b"), name="pico", source="file:b")
    with Registry.open(settings) as registry:
        assert listed(registry.bases) == [base.reference]


def test_a_folder_that_cannot_be_made_is_refused_with_the_variable_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = settings_for(f"sqlite:///{tmp_path / 'zoo.db'}", home=tmp_path / "file" / "home")
    with pytest.raises(InvalidSetting, match="set ZOO_HOME"):
        Registry.open(settings)


def test_what_was_registered_is_what_comes_back_bit_for_bit(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    folder = registry.materialise(bio)
    name = "adapter_model.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / "bio" / name).read_bytes()
    assert folder.parent == registry.settings.home / "cache"
    assert registry.materialise(bio) == folder

    base = registry.materialise(registry.bases.get("pico"))
    for path in (tmp_path / "pico").iterdir():
        assert (base / path.name).read_bytes() == path.read_bytes()


def test_a_file_changed_in_the_store_is_never_handed_out(registry: Registry, tmp_path: Path) -> None:
    dataset = registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl"))
    digest = dataset.files[0].digest.removeprefix("sha256:")
    stored = [path for path in Path(registry.settings.artifact_root).rglob("*") if digest in path.name]
    stored[0].chmod(0o600)
    stored[0].write_bytes(b"x" + stored[0].read_bytes()[1:])
    with pytest.raises(DigestMismatch):
        registry.materialise(dataset)


def test_two_adapters_of_equal_weights_but_other_scaling_have_folders_of_their_own(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    louder = registry.adapters.register(
        write_adapter(tmp_path / "louder", lora_alpha=64), name="bio", domains=["biology"]
    )
    assert louder.weights_digest == bio.weights_digest
    assert louder.reference == "bio@2"
    assert registry.materialise(louder) != registry.materialise(bio)
