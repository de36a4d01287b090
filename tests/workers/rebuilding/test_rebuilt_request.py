"""A composition is made again by its own request, of other experts."""

from pathlib import Path
from typing import Any

import pytest

from registry.entities import ExpertRecord
from registry.errors import AdapterNotFound, CompositionNotFound
from registry.service import Registry
from registry.settings import Settings
from tests.command_line import Ask
from tests.registry.folders import XLORA, write_adapter, write_base, write_composition, write_dataset
from workers.errors import SpecInvalid
from workers.rebuilding.rebuilt_request import rebuilt_plan
from workers.requests.composition import composition_request
from workers.requests.specs import ComposeSpec

#: What was asked for, besides the experts: one field that is no default, and a head of its own.
ASKED: dict[str, Any] = {
    "name": "science",
    "data": {"biology": "bio.train@1", "chem": "chem.train@1"},
    "eval_data": {"biology": "bio.eval@1", "chem": "chem.eval@1"},
    "head": {"layerwise_scalings": True, "xlora_depth": 1, "xlora_size": 8, "scaling_pass_value": 0.5},
    "samples_per_domain": 17,
    "seed": 3,
}


def fill(registry: Registry, folder: Path, *, with_job: bool = True) -> ComposeSpec:
    """Science, made of bio@1 and chem@1 by a job; bio@2 and poly@1 are newer."""
    registry.bases.register(write_base(folder / "pico"), name="pico", source="here")
    for seed, (name, domain) in enumerate(
        [("bio", "biology"), ("chem", "chem"), ("bio", "biology"), ("poly", "polymers")]
    ):
        registry.adapters.register(write_adapter(folder / f"{seed}", seed=seed), name=name, domains=[domain])
    for name in ("bio.train", "chem.train", "bio.eval", "chem.eval"):
        registry.datasets.register(write_dataset(folder / f"{name}.jsonl", topic=name))
    spec = ComposeSpec(adapters=("bio@1", "chem@1"), **ASKED)
    job = registry.jobs.claim(registry.jobs.submit("compose", spec.to_json()).id, owner="test", lease_s=600)
    assert job is not None
    registry.compositions.register(
        write_composition(folder / "science", ["bio", "chem"]),
        name="science",
        base_digest=registry.bases.get("pico").digest,
        experts=[
            ExpertRecord(
                position=position,
                name=reference.partition("@")[0],
                adapter_reference=reference,
                weights_digest=registry.adapters.get(reference).weights_digest,
            )
            for position, reference in enumerate(spec.adapters)
        ],
        method=XLORA,
        report={},
        job_id=job.id if with_job else None,
        fence=job.fence if with_job else None,
    )
    return spec


@pytest.fixture
def made(registry: Registry, tmp_path: Path) -> ComposeSpec:
    """The request that science was made by."""
    return fill(registry, tmp_path)


def rebuilt(registry: Registry, *experts: str) -> ComposeSpec:
    return composition_request(registry, rebuilt_plan(registry, "science", experts))


def test_only_the_expert_changes(registry: Registry, made: ComposeSpec) -> None:
    assert rebuilt(registry, "bio@2").to_json() == {**made.to_json(), "adapters": ["bio@2", "chem@1"]}


def test_another_adapter_takes_an_expert_s_place_and_its_data(registry: Registry, made: ComposeSpec) -> None:
    assert rebuilt(registry, "chem=poly").to_json() == {
        **made.to_json(),
        "adapters": ["bio@1", "poly@1"],
        "data": {"biology": "bio.train@1", "polymers": "chem.train@1"},
        "eval_data": {"biology": "bio.eval@1", "polymers": "chem.eval@1"},
    }


@pytest.mark.parametrize(
    ("experts", "said"),
    [
        (["bio@1"], "other than science@1 has"),
        (["poly"], "EXPERT=ADAPTER"),
        (["physics=poly"], "one of its experts"),
        (["bio@1", "bio@2"], "given once for bio"),
    ],
)
def test_what_replaces_nothing_is_refused(
    registry: Registry, made: ComposeSpec, experts: list[str], said: str
) -> None:
    with pytest.raises(SpecInvalid, match=said):
        rebuilt(registry, *experts)


def test_a_composition_without_a_request_is_refused(registry: Registry, tmp_path: Path) -> None:
    fill(registry, tmp_path, with_job=False)
    with pytest.raises(SpecInvalid, match="compose it by hand"):
        rebuilt(registry, "bio@2")


def test_what_is_not_there_is_named(registry: Registry, made: ComposeSpec) -> None:
    with pytest.raises(AdapterNotFound):
        rebuilt(registry, "bio@9")
    with pytest.raises(CompositionNotFound):
        rebuilt_plan(registry, "nothing", ["bio@2"])


def test_the_command_queues_the_request_or_shows_the_plan(ask: Ask, home: Path, tmp_path: Path) -> None:
    with Registry.open(Settings.from_env({"ZOO_HOME": str(home)})) as registry:
        made = fill(registry, tmp_path)
    planned = ask("compositions", "rebuild", "science", "--expert", "bio@2", "--dry-run", "--json")
    assert [row["expert"] for row in planned.json][:2] == ["bio@2", "chem@1"]
    queued = ask("compositions", "rebuild", "science", "--expert", "bio@2", "--detach", "-q")
    with Registry.open(Settings.from_env({"ZOO_HOME": str(home)})) as registry:
        spec = registry.jobs.get(int(queued.out)).spec
    assert spec == {**made.to_json(), "adapters": ["bio@2", "chem@1"]}
