"""From a reference to a record, or to an error that says what is there instead."""

from pathlib import Path

import pytest

from registry.database.database import Database
from registry.entities import AdapterVersion, BaseModel
from registry.errors import AdapterNotFound, AliasNotFound, BaseNotFound, InvalidReference
from registry.records.models import AdapterVersionRow
from registry.service import Registry
from tests.registry.folders import write_adapter, write_base
from tests.registry.listed import listed


@pytest.fixture
def second(registry: Registry, bio: AdapterVersion, tmp_path: Path) -> AdapterVersion:
    """Another version of bio."""
    return registry.adapters.register(write_adapter(tmp_path / "second", seed=1), name="bio")


def test_every_form_finds_its_version(
    registry: Registry, bio: AdapterVersion, second: AdapterVersion
) -> None:
    registry.adapters.set_alias("bio", "champion", 1)
    prefix = bio.weights_digest[: len("sha256:") + 8]
    assert registry.adapters.get("bio") == second
    assert registry.adapters.get("bio@1") == bio
    assert registry.adapters.get("bio@champion") == bio
    assert registry.adapters.get(f"bio@{prefix}") == bio
    assert registry.adapters.get(bio.weights_digest) == bio


def test_a_name_alone_passes_over_a_removed_version(
    registry: Registry, bio: AdapterVersion, second: AdapterVersion
) -> None:
    registry.adapters.remove("bio@2")
    assert registry.adapters.get("bio") == bio
    assert listed(registry.adapters) == [bio.reference]
    with pytest.raises(AdapterNotFound, match="zoo adapters restore bio@2"):
        registry.adapters.get("bio@2")
    assert registry.adapters.get("bio@2", include_deleted=True).state == "deleted"
    assert [version["version"] for version in registry.adapters.list(include_deleted=True)] == [1, 2]


def test_an_unknown_name_is_refused_with_similar_names(registry: Registry, bio: AdapterVersion) -> None:
    with pytest.raises(AdapterNotFound, match="did you mean bio") as refusal:
        registry.adapters.get("boi")
    assert refusal.value.nearest == ("bio",)
    assert "zoo adapters ls" in str(refusal.value)


def test_a_version_that_is_not_there_brings_those_that_are(
    registry: Registry, bio: AdapterVersion, second: AdapterVersion
) -> None:
    with pytest.raises(AdapterNotFound, match="bio has version 1, 2"):
        registry.adapters.get("bio@9")


def test_an_unknown_alias_is_refused_with_similar_names(registry: Registry, bio: AdapterVersion) -> None:
    registry.adapters.set_alias("bio", "champion", 1)
    with pytest.raises(AliasNotFound, match=r"did you mean champion.*zoo adapters show bio"):
        registry.adapters.get("bio@champoin")
    with pytest.raises(AdapterNotFound, match="did you mean bio"):
        registry.adapters.get("boi@champion")


def test_a_digest_that_fits_several_is_not_guessed(
    registry: Registry, database: Database, bio: AdapterVersion, second: AdapterVersion
) -> None:
    with database.write() as session:
        for number, version in enumerate((bio, second)):
            row = session.get_one(AdapterVersionRow, version.id)
            row.weights_digest = f"sha256:abcd{number}{'0' * 59}"
    with pytest.raises(InvalidReference, match=r"fits sha256:abcd0000000.*give more of the digest"):
        registry.adapters.get("bio@sha256:abcd")
    assert registry.adapters.get("bio@sha256:abcd1").version == 2


def test_a_digest_that_versions_share_means_the_newest(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    louder = registry.adapters.register(write_adapter(tmp_path / "louder", lora_alpha=99), name="bio")
    assert louder.weights_digest == bio.weights_digest
    assert registry.adapters.get(f"bio@{bio.weights_digest}") == louder


def test_base_models_are_found_by_name_and_by_digest(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    other = registry.bases.register(write_base(tmp_path / "other", seed=1), name="other", source="file:o")
    assert registry.bases.get("pico") == pico
    assert registry.bases.get(other.digest) == other
    assert registry.bases.get(f"pico@{pico.digest[:20]}") == pico
    assert listed(registry.bases) == [other.reference, pico.reference]


def test_an_unknown_base_model_is_refused_with_similar_names(registry: Registry, pico: BaseModel) -> None:
    with pytest.raises(BaseNotFound, match=r"did you mean pico.*zoo bases ls"):
        registry.bases.get("picco")
    with pytest.raises(BaseNotFound, match="neither versions nor aliases"):
        registry.bases.get("pico@1")
    with pytest.raises(BaseNotFound):
        registry.bases.get(f"pico@sha256:{'0' * 64}")
    registry.bases.remove("pico")
    with pytest.raises(BaseNotFound, match="zoo bases restore pico"):
        registry.bases.get("pico")
    assert registry.bases.get("pico", include_deleted=True).state == "deleted"


@pytest.mark.parametrize("name", ["%", "_", "b%", "bio' OR 1=1 --", "bio;DROP TABLE adapter"])
def test_what_sql_would_read_as_its_own_is_only_text(
    registry: Registry, bio: AdapterVersion, name: str
) -> None:
    with pytest.raises((AdapterNotFound, InvalidReference)):
        registry.adapters.get(name)
    assert listed(registry.adapters) == [bio.reference]
