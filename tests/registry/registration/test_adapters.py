"""Adapters: derived from their files, numbered, registered once, and once a job."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.entities import AdapterVersion, BaseModel, Job
from registry.errors import AdapterConfigInvalid, InvalidField, InvalidName, LeaseLost, PickleRefused
from registry.service import Registry
from tests.registry.folders import PROJECTIONS, write_adapter
from tests.registry.listed import listed


def _running(registry: Registry, *, lease_s: float = 3600.0) -> Job:
    job = registry.jobs.submit("train", {"name": "bio"})
    claimed = registry.jobs.claim(job.id, owner="w", lease_s=lease_s)
    assert claimed is not None
    return claimed


def test_everything_readable_is_read_and_the_rest_is_kept_as_said(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    registered = registry.adapters.register(
        write_adapter(tmp_path / "a", rank=4),
        name="bio",
        domains=["biology", "medicine"],
        tags=["small"],
        licence="Apache-2.0",
        description="# Biology\n",
        parameters={"train_dataset": "bio.train@1", "epochs": 3},
        effect_score=0.25,
    )
    assert (registered.reference, registered.base_name) == ("bio@1", "pico")
    assert registered.base_digest == pico.digest
    assert (registered.rank, registered.alpha, registered.use_rslora) == (4, 8.0, False)
    assert registered.target_modules == ("q_proj", "v_proj")
    assert registered.modules == tuple(sorted(PROJECTIONS))
    assert registered.parameter_count == 4 * (8 * 4 + 4 * 8)
    assert (registered.domains, registered.tags) == (("biology", "medicine"), ("small",))
    assert (registered.licence, registered.description) == ("Apache-2.0", "# Biology\n")
    assert registered.parameters == {"train_dataset": "bio.train@1", "epochs": 3}
    assert (registered.effect_score, registered.origin) == (0.25, "file:a")
    assert registered.warnings == ()
    assert registry.adapters.get("bio") == registered


def test_patterns_come_back_in_the_order_they_were_given_in(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    patterns = {"layers.0.self_attn.q_proj": 64, "q_proj": 2, "b": 3, "a": 4}
    folder = write_adapter(tmp_path / "a", alpha_pattern=patterns)
    bio = registry.adapters.register(folder, name="bio")
    stored = json.loads((registry.materialise(bio) / "adapter_config.json").read_text())
    assert list(stored["alpha_pattern"].items()) == list(patterns.items())
    assert list(registry.adapters.get("bio").alpha_pattern.items()) == list(patterns.items())


def test_the_same_adapter_again_is_the_version_that_is_there(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    assert registry.adapters.register(write_adapter(tmp_path / "again"), name="bio") == bio


def test_another_adapter_under_the_same_name_is_the_next_version(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    second = registry.adapters.register(write_adapter(tmp_path / "b", seed=1), name="bio")
    assert second.reference == "bio@2"
    assert registry.adapters.get("bio") == second
    assert registry.adapters.get("bio@1") == bio
    assert listed(registry.adapters) == [bio.reference, second.reference]
    assert listed(registry.adapters, base="pico") == [bio.reference, second.reference]


def test_the_same_adapter_under_another_name_is_another_adapter(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    other = registry.adapters.register(write_adapter(tmp_path / "b"), name="cells")
    assert other.reference == "cells@1"
    assert other.weights_digest == bio.weights_digest


def test_registering_a_removed_version_again_brings_it_back(
    registry: Registry, bio: AdapterVersion, tmp_path: Path
) -> None:
    registry.adapters.remove("bio@1")
    assert registry.adapters.register(write_adapter(tmp_path / "again"), name="bio") == bio


def test_versions_registered_at_once_all_get_numbers_of_their_own(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    folders = [write_adapter(tmp_path / f"{seed}", seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        versions = pool.map(lambda folder: registry.adapters.register(folder, name="bio").version, folders)
    assert sorted(versions) == [1, 2, 3, 4, 5, 6]


def test_the_same_registered_at_once_is_one_version(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a")
    with ThreadPoolExecutor(3) as pool:
        versions = pool.map(lambda _: registry.adapters.register(folder, name="bio"), range(6))
    assert len({version.id for version in versions}) == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("labels", "refusal"),
    [
        ({"name": "../bio"}, InvalidName),
        ({"domains": ["a b"]}, InvalidName),
        ({"tags": [""]}, InvalidName),
        ({"licence": "x\n"}, InvalidField),
        ({"description": "\0"}, InvalidField),
        ({"origin": "\x1b[31m"}, InvalidField),
        ({"job_id": 1}, InvalidField),
        ({"fence": 1}, InvalidField),
    ],
)
def test_labels_out_of_range_are_refused_and_leave_nothing(
    registry: Registry,
    pico: BaseModel,
    tmp_path: Path,
    labels: dict[str, object],
    refusal: type[Exception],
) -> None:
    with pytest.raises(refusal):
        registry.adapters.register(write_adapter(tmp_path / "a"), **{"name": "bio", **labels})  # type: ignore[arg-type]
    assert listed(registry.adapters) == []


def test_files_that_cannot_be_trusted_leave_nothing(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(AdapterConfigInvalid, match="use_dora"):
        registry.adapters.register(write_adapter(tmp_path / "a", use_dora=True), name="bio")
    folder = write_adapter(tmp_path / "b")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(PickleRefused):
        registry.adapters.register(folder, name="bio")
    assert listed(registry.adapters) == []


def test_a_job_registers_while_it_is_held_and_only_once(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    job = _running(registry, lease_s=-1)
    first = registry.adapters.register(
        write_adapter(tmp_path / "a"), name="bio", origin=f"job:{job.id}", job_id=job.id, fence=job.fence
    )
    assert (first.job_id, first.origin) == (job.id, f"job:{job.id}")

    # The attempt died before it could say so; the next one trains to other weights.
    again = registry.jobs.claim(job.id, owner="second", lease_s=3600)
    assert again is not None
    second = registry.adapters.register(
        write_adapter(tmp_path / "b", seed=1), name="bio", job_id=job.id, fence=again.fence
    )
    assert second == first
    assert listed(registry.adapters) == [first.reference]


def test_an_overtaken_attempt_registers_nothing(registry: Registry, pico: BaseModel, tmp_path: Path) -> None:
    stale = _running(registry, lease_s=-1)
    taken = registry.jobs.claim(stale.id, owner="second", lease_s=3600)
    assert taken is not None
    folder = write_adapter(tmp_path / "a")
    with pytest.raises(LeaseLost, match=f"zoo jobs show {stale.id}"):
        registry.adapters.register(folder, name="bio", job_id=stale.id, fence=stale.fence)
    assert listed(registry.adapters) == []

    registry.jobs.finish(stale.id, fence=taken.fence, state="cancelled", reason="cancelled")
    with pytest.raises(LeaseLost):
        registry.adapters.register(folder, name="bio", job_id=stale.id, fence=taken.fence)
    assert listed(registry.adapters) == []
