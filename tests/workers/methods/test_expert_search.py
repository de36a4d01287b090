"""Adapters are ranked by what each adds to those chosen before it, and the best are composed."""

from pathlib import Path

import pytest
import torch

from registry.errors import InvalidField
from registry.service import Registry
from tests.pico import pico_adapter
from tests.workers.stocked_zoo import DOMAINS, Started
from workers.errors import SpecInvalid
from workers.jobs import compose
from workers.methods.expert_search import rank, was_right
from workers.requests.composition import candidates
from workers.requests.composition_data import AskedData
from workers.requests.composition_plan import Request, make_plan
from xlora_engine.merging.overlap import overlap
from xlora_engine.sources.adapter_weights import Expert, read_expert


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> list[Expert]:
    root = tmp_path_factory.mktemp("candidates")
    return [
        read_expert(pico_adapter(root / name, seed=seed), name)
        for seed, name in enumerate(("all-round", "bio", "protein"))
    ]


def test_what_adds_most_is_chosen_not_what_is_best_alone(experts: list[Expert]) -> None:
    losses = {
        "all-round": torch.tensor([1.0, 1.0, 1.0, 1.0]),
        "bio": torch.tensor([0.1, 0.1, 2.0, 2.0]),
        "protein": torch.tensor([2.0, 2.0, 0.2, 0.3]),
    }
    ranked = rank(losses, torch.full((4,), 3.0), count=2, experts=experts)
    assert [each.name for each in ranked] == ["all-round", "bio", "protein"]
    assert [each.place for each in ranked] == [1, 2, None]
    assert [each.joint_loss for each in ranked] == pytest.approx([1.0, 0.55, 0.175])
    assert [each.gain for each in ranked] == pytest.approx([2.0, 1.95, 1.875])


def test_an_adapter_overlaps_itself_wholly_and_a_stranger_little(experts: list[Expert]) -> None:
    assert overlap(experts[0], experts[0]) == pytest.approx(1, abs=1e-4)
    assert overlap(experts[0], experts[1]) == pytest.approx(overlap(experts[1], experts[0]), rel=1e-4)
    assert overlap(experts[0], experts[1]) < 0.6


def test_the_report_compares_the_ranking_with_what_each_expert_is_missed_for() -> None:
    ranking = [{"name": name, "place": place} for place, name in enumerate(("a", "b", "c"), 1)]
    without = {
        name: {"bio": {"change": {"loss": {"mean": mean}}}}
        for name, mean in (("a", 0.3), ("b", 0.1), ("c", 0.2))
    }
    (sentence,) = was_right(ranking, without)
    assert "costs a +0.300, c +0.200, b +0.100" in sentence
    assert "2 of 3 pairs are in the order of the ranking" in sentence
    assert was_right(ranking, {}) == []


@pytest.fixture
def several(stocked: Registry, tmp_path: Path) -> Registry:
    """Two adapters more, one of them a copy of `bio` under another name, one with an older version."""
    for seed in (7, 8):
        stocked.adapters.register(pico_adapter(tmp_path / f"other{seed}", seed=seed), name="other")
    stocked.adapters.register(stocked.materialise(stocked.adapters.get("bio")), name="copy")
    return stocked


def test_the_newest_of_each_is_a_candidate_and_a_copy_is_none(several: Registry) -> None:
    assert candidates(several, ("auto",), base="pico") == ("bio@1", "other@2", "protein@1")
    with pytest.raises(InvalidField, match="--base must be given"):
        candidates(several, ("auto",), base=None)
    with pytest.raises(InvalidField, match="--base must be left out"):
        candidates(several, ("bio", "protein"), base="pico")


def asked(registry: Registry, *, choose: int) -> Request:
    return Request(
        name="science",
        adapters=candidates(registry, ("auto",), base="pico"),
        data=AskedData(corpora=("bio.train",)),
        head={"xlora_size": 8},
        budget={
            "choose": choose,
            "samples_per_domain": 4,
            "warm_start_steps": 2,
            "mixture_steps": 1,
            "without_help": True,
        },
    )


def test_the_best_candidates_are_composed_and_the_report_has_the_ranking(
    several: Registry, started: Started
) -> None:
    spec = make_plan(several, asked(several, choose=2)).spec()
    assert spec.head["scaling_pass_value"] == 0.5
    composition = several.compositions.get(compose.run(started(spec))["composition"])
    ranking = composition.report["search"]["ranking"]
    assert {row["name"] for row in ranking} == {*DOMAINS, "other"}
    chosen = [row["name"] for row in ranking if row["place"] is not None]
    assert [expert.name for expert in composition.experts] == chosen
    assert set(composition.report["subjects"]) >= {"base", *chosen, "composed"}
    assert "pairs are in the order of the ranking" in composition.report["search"]["sentences"][0]


def test_more_than_there_are_cannot_be_chosen(several: Registry) -> None:
    with pytest.raises(SpecInvalid, match="choose must be at most 3, the adapters, got 4"):
        make_plan(several, asked(several, choose=4)).spec()
