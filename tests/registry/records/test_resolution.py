"""References mean the same in a list and in a single look: one function resolves them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from registry.database.database import Database
from registry.entities import AdapterVersion, BaseModel
from registry.errors import BaseNotFound, InvalidReference, RegistryError
from registry.records.models import BaseModelRow
from registry.service import Registry
from tests.registry.folders import write_adapter, write_base, write_dataset
from tests.registry.listed import listed


def _refusals(registry: Registry, reference: str) -> set[tuple[type[RegistryError], str]]:
    """How the base model is refused, wherever it can be named."""
    uses: tuple[Callable[[], object], ...] = (
        lambda: registry.bases.get(reference),
        lambda: registry.adapters.list(base=reference),
        lambda: registry.compositions.list(base=reference),
    )
    refusals = set()
    for use in uses:
        with pytest.raises(RegistryError) as refusal:
            use()
        refusals.add((refusal.type, str(refusal.value)))
    return refusals


@pytest.mark.parametrize("reference", ["pico@3", "pico@champion", "picco", f"sha256:{'0' * 64}"])
def test_an_unknown_base_model_is_refused_with_the_same_message(
    registry: Registry, bio: AdapterVersion, reference: str
) -> None:
    (refusal,) = _refusals(registry, reference)
    assert refusal[0] is BaseNotFound


def test_an_ambiguous_base_digest_is_refused_with_the_same_message(
    registry: Registry, database: Database, pico: BaseModel, tmp_path: Path
) -> None:
    other = registry.bases.register(write_base(tmp_path / "other", seed=1), name="other", source="here")
    with database.write() as session:
        for number, base in enumerate((pico, other)):
            session.get_one(BaseModelRow, base.id).digest = f"sha256:abcd{number}{'0' * 59}"
    (refusal,) = _refusals(registry, "sha256:abcd")
    assert refusal[0] is InvalidReference
    assert "give more of the digest" in refusal[1]
    assert listed(registry.adapters, base="sha256:abcd1") == []


def test_a_removed_base_model_is_found_where_removed_ones_are_asked_for(
    registry: Registry, bio: AdapterVersion
) -> None:
    registry.adapters.remove("bio")
    registry.bases.remove("pico")
    (refusal,) = _refusals(registry, "pico")
    assert "zoo bases restore pico" in refusal[1]
    assert registry.bases.get("pico", include_deleted=True).state == "deleted"
    assert listed(registry.adapters, base="pico", include_deleted=True) == ["bio@1"]


def test_what_is_made_of_a_record_is_listed_by_any_reference_to_it(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl"))
    registry.datasets.set_alias("bio.train", "latest", 1)
    registry.adapters.register(
        write_adapter(tmp_path / "trained", seed=1),
        name="trained",
        parameters={"train_dataset": "bio.train@1"},
    )
    for reference in ("bio.train", "bio.train@1", "bio.train@latest"):
        assert listed(registry.adapters, trained_on=reference) == ["trained@1"]
    assert registry.datasets.details("bio.train@latest")["trained"] == ["trained@1"]
    assert listed(registry.compositions, expert=bio.weights_digest) == []
