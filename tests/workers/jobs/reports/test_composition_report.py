"""The report of a composition as the job makes it: also of one that is a model of its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pico import pico_adapter
from tests.workers.stocked_zoo import DOMAINS, Started, write_chats
from workers.jobs import compose, loading
from workers.jobs.answering import Answerer
from workers.jobs.reports.composition_report import CompositionReport, held_out_examples
from workers.jobs.reports.composition_scores import FEW_EXAMPLES
from workers.methods.mixing import ComposedModel, Making, Stopwatch
from workers.requests.specs import ComposeSpec
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel

COUNT = FEW_EXAMPLES + 5


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is compared differs by rounding alone, whatever this machine is fast at."""
    monkeypatch.setenv("ZOO_COMPUTE_DTYPE", "float32")


@pytest.fixture
def making(started: Started, tmp_path: Path) -> Making:
    """Two experts whose held-out data is more than the few examples; one was trained on some of it."""
    spec = ComposeSpec(
        name="both",
        method="uniform",
        adapters=("bio@1", "protein@1"),
        eval_data={"bio": "bio.long@1", "protein": "protein.long@1"},
        mixed_datasets=("joined@1",),
    )
    context = started(spec)
    registry = context.registry
    for name in ("bio.long", "protein.long", "joined"):
        file = write_chats(tmp_path / f"{name}.jsonl", domain=name[0] + name[-1], count=COUNT)
        registry.datasets.register(file)
    base = loading.loaded_base(registry, registry.bases.get("pico"))
    return Making(
        context=context,
        spec=spec,
        parts=compose.resolve(context, spec),
        base_model=base.model,
        tokenizer=base.tokenizer,
        watch=Stopwatch(),
    )


def reported(making: Making, composed: ComposedModel) -> dict[str, Any]:
    return CompositionReport(making, composed, held_out_examples(making)).build()


def test_each_score_is_of_as_many_examples_as_its_comparison_needs(making: Making) -> None:
    # Given a composition with a head
    composed = ComposedModel(
        model=making.with_experts(
            XLoraConfig(xlora_depth=2, xlora_size=8, layerwise_scalings=True, scaling_pass_value=0.5)
        )
    )
    # When it is reported on
    report = reported(making, composed)
    # Then what is compared closely is scored on all examples and everything else on a few
    counts = {
        name: {task: score["n"] for task, score in by_task.items()}
        for name, by_task in report["scores"].items()
    }
    few, whole = FEW_EXAMPLES, COUNT
    assert counts["composed"] == counts["uniform"] == dict.fromkeys(report["tasks"], whole)
    assert counts["base"] == dict.fromkeys(report["tasks"], few)
    assert (counts["bio"]["bio"], counts["protein"]["protein"]) == (whole, whole)
    assert sorted(counts[name]["joined"] for name in DOMAINS) == [few, whole]
    assert {row["change"]["n"] for row in report["without"]["bio"].values()} == {few}
    assert set(report["routing"]) == set(report["tasks"])
    assert len(report["samples"]) == 2 * len(report["tasks"])
    # and what shows it lies in the job's folder
    folder = making.context.folder
    assert {path.name for path in (folder / "report").iterdir()} == {"report.html", "report.json"}
    assert json.loads((folder / "report" / "report.json").read_text())["verdict"] == report["verdict"]
    assert (folder / "pictures" / "tokens.png").exists()


def test_scores_are_those_of_the_subjects_alone(making: Making) -> None:
    # Given a composition with a head, reported on
    examples = held_out_examples(making)
    composed = ComposedModel(model=making.with_experts(XLoraConfig(xlora_depth=2, xlora_size=8)))
    report = CompositionReport(making, composed, examples).build()
    # When its subjects are asked one by one, as an evaluation asks them
    for name, weights in (("composed", None), ("bio", (1.0, 0.0)), ("uniform", (0.5, 0.5))):
        asked = ComposedModel(model=composed.model, weights=weights)
        answerer = Answerer(subject=name, asked=asked, tokenizer=making.tokenizer)
        alone = answerer.score(examples["bio"], tokens_per_batch=300)
        # Then the scores are the same
        found = report["scores"][name]["bio"]
        assert found["loss"] == pytest.approx(alone.loss, rel=1e-5)
        assert found["exact_match"] == alone.exact_match


def test_a_composition_that_is_a_model_of_its_own_is_compared_with_experts_on_the_same_base(
    making: Making,
) -> None:
    # Given a composition that is one adapter, as a static merge is: the first expert itself
    registry, first = making.context.registry, making.parts.adapters[0]
    model = XLoraModel.from_adapters(making.base_model, {"merged": registry.materialise(first)})
    # When it is reported on
    report = reported(making, ComposedModel(model=model, weights=(1.0,)))
    # Then it scores as that expert does, beside all experts
    assert report["subjects"] == [
        *("base", *DOMAINS, "uniform", "method core-ties", "method pico", "composed")
    ]
    for metric in ("loss", "exact_match", "n"):
        assert report["scores"]["composed"]["bio"][metric] == pytest.approx(
            report["scores"]["bio"]["bio"][metric], abs=1e-5
        )
    verdict = next(verdict for verdict in report["verdict"] if verdict["task"] == "bio")
    assert verdict["verdict"] == "no worse"
    assert (report["without"], report["routing"], report["samples"]) == ({}, {}, [])
    # and is left on the base model
    prompt = torch.arange(3, 12)[None]
    with model.fixed_scalings(model.constant_scalings([1.0])):
        out = model(input_ids=prompt).logits
    with model.disabled():
        assert not torch.equal(out, model(input_ids=prompt).logits)


def test_examples_that_an_expert_was_trained_on_are_named(making: Making, tmp_path: Path) -> None:
    # Given a third expert whose training data holds the held-out examples of bio
    registry = making.context.registry
    folder = pico_adapter(tmp_path / "seen", seed=9)
    seen = registry.adapters.register(folder, name="seen", parameters={"train_dataset": "bio.long@1"})
    with_seen = replace(making, parts=replace(making.parts, adapters=(*making.parts.adapters, seen)))
    composed = ComposedModel(model=with_seen.with_experts(XLoraConfig()), weights=(1 / 3,) * 3)
    contamination = reported(with_seen, composed)["contamination"]
    assert contamination["count"] == COUNT
    assert contamination["examples"][0]["dataset"] == "bio.long@1"
    assert contamination["unknown"] == ["bio", "protein"]
