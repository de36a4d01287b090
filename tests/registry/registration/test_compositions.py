"""Compositions: their experts are registered, unchanged and of one base model; their files just the known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.entities import AdapterVersion, BaseModel, CompositionVersion, ExpertRecord
from registry.errors import AdapterNotFound, Incompatible, InvalidComposition, InvalidName, LeaseLost
from registry.service import Registry
from tests.registry.folders import XLORA, write_adapter, write_base, write_composition
from tests.registry.listed import listed


@pytest.fixture
def experts(registry: Registry, bio: AdapterVersion, tmp_path: Path) -> tuple[ExpertRecord, ...]:
    """Two registered adapters as experts."""
    protein = registry.adapters.register(write_adapter(tmp_path / "protein", seed=1, rank=4), name="protein")
    return tuple(_expert(adapter, position) for position, adapter in enumerate((bio, protein)))


def _expert(adapter: AdapterVersion, position: int) -> ExpertRecord:
    return ExpertRecord(
        position=position,
        name=adapter.name,
        adapter_reference=adapter.reference,
        weights_digest=adapter.weights_digest,
    )


def _register(
    registry: Registry, folder: Path, experts: tuple[ExpertRecord, ...], **options: Any
) -> CompositionVersion:
    stated = {
        "name": "science",
        "base_digest": registry.bases.get("pico").digest,
        "method": XLORA,
        "report": {"worth_it": True},
        **options,
    }
    return registry.compositions.register(folder, experts=experts, **stated)


def _saved(tmp_path: Path, *, seed: int = 0) -> Path:
    return write_composition(tmp_path / f"composition-{seed}", ["bio", "protein"], seed=seed)


def test_a_composition_keeps_its_experts_in_order(
    registry: Registry, pico: BaseModel, experts: tuple[ExpertRecord, ...], tmp_path: Path
) -> None:
    registered = _register(registry, _saved(tmp_path), tuple(reversed(experts)))
    assert registered.reference == "science@1"
    assert registered.experts == experts
    assert (registered.base_name, registered.base_digest) == ("pico", pico.digest)
    assert (registered.method, registered.method_details) == ("xlora", XLORA.details)
    assert registered.report == {"worth_it": True}
    assert registry.compositions.get("science") == registered
    assert listed(registry.compositions) == [registered.reference]


def test_its_folder_comes_back_whole(
    registry: Registry, experts: tuple[ExpertRecord, ...], tmp_path: Path
) -> None:
    saved = _saved(tmp_path)
    folder = registry.materialise(_register(registry, saved, experts))
    files = [path.relative_to(saved) for path in saved.rglob("*") if path.is_file()]
    assert len(files) == 7
    for file in files:
        assert (folder / file).read_bytes() == (saved / file).read_bytes()


def test_the_same_composition_again_is_the_version_that_is_there(
    registry: Registry, experts: tuple[ExpertRecord, ...], tmp_path: Path
) -> None:
    first = _register(registry, _saved(tmp_path), experts)
    assert _register(registry, _saved(tmp_path / "again"), experts) == first
    other = replace(XLORA, details={**XLORA.details, "head": "sha256:01"})
    second = _register(registry, _saved(tmp_path, seed=1), experts, method=other)
    assert second.reference == "science@2"
    # Two heads of one configuration are told apart, and found, by the digest over all that they are.
    assert first.content_digest != second.content_digest
    assert registry.compositions.get(f"science@{second.content_digest}") == second


def test_experts_must_be_registered_and_unchanged(
    registry: Registry, experts: tuple[ExpertRecord, ...], tmp_path: Path
) -> None:
    bio, protein = experts
    other = ExpertRecord(
        position=1, name="protein", adapter_reference="protein@1", weights_digest=bio.weights_digest
    )
    with pytest.raises(InvalidComposition, match="expert protein was made from weights"):
        _register(registry, _saved(tmp_path), (bio, other))
    registry.adapters.remove("protein@1")
    with pytest.raises(AdapterNotFound, match="zoo adapters restore protein@1"):
        _register(registry, _saved(tmp_path, seed=1), (bio, protein))
    assert listed(registry.compositions) == []


def test_experts_must_be_for_the_base_model_of_the_composition(
    registry: Registry, experts: tuple[ExpertRecord, ...], tmp_path: Path
) -> None:
    twin = registry.bases.register(write_base(tmp_path / "twin", seed=1), name="twin", source="file:twin")
    with pytest.raises(Incompatible, match="bio@1 is for pico, another base model"):
        _register(registry, _saved(tmp_path), experts, base_digest=twin.digest)


def test_experts_must_have_places_and_names_of_their_own(
    registry: Registry, experts: tuple[ExpertRecord, ...], tmp_path: Path
) -> None:
    bio, protein = experts
    with pytest.raises(InvalidComposition, match="positions 0, 1"):
        _register(registry, _saved(tmp_path), (protein,))
    with pytest.raises(InvalidComposition, match="positions 0, 1"):
        _register(registry, _saved(tmp_path / "none"), ())
    escaping = ExpertRecord(
        position=0, name="../bio", adapter_reference="bio@1", weights_digest=bio.weights_digest
    )
    with pytest.raises(InvalidName, match="expert"):
        _register(registry, _saved(tmp_path / "escaping"), (escaping, protein))


def test_a_folder_with_a_file_too_many_or_too_few_is_refused(
    registry: Registry, experts: tuple[ExpertRecord, ...], tmp_path: Path
) -> None:
    foreign = _saved(tmp_path / "foreign")
    (foreign / "experts" / "bio" / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(InvalidComposition, match=r"unknown \['adapter_model.bin'\]"):
        _register(registry, foreign, experts)
    partial = _saved(tmp_path / "partial")
    (partial / "probe.safetensors").unlink()
    with pytest.raises(InvalidComposition, match=r"missing \['probe.safetensors'\]"):
        _register(registry, partial, experts)
    linked = _saved(tmp_path / "linked")
    (linked / "xlora.json").unlink()
    (linked / "xlora.json").symlink_to("/etc/hostname")
    with pytest.raises(InvalidComposition, match="symbolic link"):
        _register(registry, linked, experts)
    assert listed(registry.compositions) == []


def test_a_job_composes_once_and_only_while_it_is_held(
    registry: Registry, experts: tuple[ExpertRecord, ...], tmp_path: Path
) -> None:
    job = registry.jobs.submit("compose", {})
    stale = registry.jobs.claim(job.id, owner="first", lease_s=-1)
    held = registry.jobs.claim(job.id, owner="second", lease_s=3600)
    assert stale is not None
    assert held is not None
    with pytest.raises(LeaseLost):
        _register(registry, _saved(tmp_path), experts, job_id=job.id, fence=stale.fence)
    assert listed(registry.compositions) == []

    first = _register(registry, _saved(tmp_path, seed=1), experts, job_id=job.id, fence=held.fence)
    second = _register(registry, _saved(tmp_path, seed=2), experts, job_id=job.id, fence=held.fence)
    assert first == second
    assert first.job_id == job.id
    assert listed(registry.compositions) == [first.reference]
