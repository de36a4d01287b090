"""A trained adapter is scored on the base model that it was trained on, which says what it computed in."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from registry.service import Registry
from tests.pico import pico_adapter, pico_base_folder, pico_tokenizer
from tests.workers.stocked_zoo import Started
from workers.errors import SpecInvalid
from workers.jobs import loading, train
from workers.jobs.evaluation import job as evaluation
from workers.requests.specs import EvalSpec, TrainSpec
from workers.requests.training import planned_training
from xlora_engine.errors import AnswerTooLong

SPEC = TrainSpec(
    name="new",
    base="pico",
    train_dataset="bio.train@1",
    eval_dataset="bio.eval@1",
    steps=2,
    warmup_steps=0,
    rank=2,
)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every load of a base model's weights."""
    seen: list[Any] = []
    load = loading.__dict__["load_base"]

    def counted(folder: Any, **options: Any) -> Any:
        seen.append(folder)
        return load(folder, **options)

    monkeypatch.setattr(loading, "load_base", counted)
    return seen


def test_one_base_model_is_in_memory_for_training_and_scoring(started: Started, loads: list[Any]) -> None:
    outcome = train.run(started(SPEC))
    assert len(loads) == 1
    assert set(outcome["scores"]) == {"loss", "perplexity", "bits_per_byte", "exact_match"}


def test_the_scores_are_those_of_the_adapter_loaded_anew(started: Started) -> None:
    outcome = train.run(started(SPEC))
    asked = EvalSpec(subjects=(f"adapter:{outcome['adapter']}",), datasets={"bio": "bio.eval@1"})
    scored = evaluation.run(started(asked))
    (anew,) = scored["scores"].values()
    assert outcome["scores"]["loss"] == pytest.approx(anew["bio"]["loss"], abs=1e-6)
    # All that is held out was trained on, which training and evaluation say.
    said = "4 of 4 examples stand in bio.train@1 (4 equal, 0 nearly)"
    assert [said in outcome["warnings"][0], said in scored["warnings"][0]] == [True, True]
    assert outcome["data"]["shared_with_held_out"] == 4


def test_what_was_computed_in_is_on_record(started: Started) -> None:
    context = started(SPEC)
    outcome = train.run(context)
    job = context.registry.jobs.get(context.job.id)
    adapter = context.registry.adapters.get(outcome["adapter"])
    assert job.compute_dtype == adapter.compute_dtype
    assert job.compute_dtype in ("float32", "bfloat16")
    assert context.registry.adapters.get("bio").compute_dtype is None


def test_the_record_says_where_its_answers_end(started: Started) -> None:
    context = started(SPEC)
    outcome = train.run(context)
    assert context.registry.adapters.get(outcome["adapter"]).parameters["stop_tokens"] == {"<|im_end|>": 2}


def test_whatever_is_loaded_stops_where_its_turn_ends_in_training(started: Started, tmp_path: Path) -> None:
    registry = started(SPEC).registry
    folder = pico_base_folder(tmp_path / "two ends", seed=5, eos_token_id=0)
    tokenizer = pico_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    loaded = loading.loaded_base(registry, registry.bases.register(folder, name="two", source="here"))
    assert loaded.stop_tokens == {"<|endoftext|>": 0, "<|im_end|>": 2}


CONTEXT = 40


@pytest.fixture
def short(started: Started, tmp_path: Path) -> Registry:
    """With `short`, a base model that reads little, and data of which the third line is longer."""
    registry = started(SPEC).registry
    folder = pico_base_folder(tmp_path / "short", seed=5, max_position_embeddings=CONTEXT)
    registry.bases.register(folder, name="short", source="here")
    for name, longest in (("long", CONTEXT), ("fits", 1)):
        lines = [
            {"messages": [{"role": "user", "content": "q" * n}, {"role": "assistant", "content": "a"}]}
            for n in (1, 1, longest, longest)
        ]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        registry.datasets.register(file)
    return registry


@pytest.mark.parametrize(
    "data", [{"train_dataset": "long@1"}, {"train_dataset": "fits@1", "eval_dataset": "long@1"}]
)
def test_examples_longer_than_the_base_model_reads_are_refused_before_training(
    short: Registry, started: Started, monkeypatch: pytest.MonkeyPatch, data: Any
) -> None:
    monkeypatch.setattr(train, "train_adapter", None)
    context = started(TrainSpec(name="new", base="short", steps=2, warmup_steps=0, **data))
    with pytest.raises(AnswerTooLong, match=rf"long\.jsonl, line 3 has \d+ tokens .* limit is {CONTEXT};"):
        train.run(context)


@pytest.mark.usefixtures("short")
def test_evaluating_refuses_them_in_the_same_words(started: Started) -> None:
    context = started(EvalSpec(subjects=("base:short",), datasets={"long": "long@1"}))
    with pytest.raises(AnswerTooLong, match=rf"long\.jsonl, line 3 has \d+ tokens .* limit is {CONTEXT};"):
        evaluation.run(context)


@pytest.mark.usefixtures("short")
def test_a_limit_below_the_context_counts(started: Started) -> None:
    context = started(
        TrainSpec(name="new", base="short", train_dataset="fits@1", max_tokens=20, steps=1, warmup_steps=0)
    )
    with pytest.raises(AnswerTooLong, match=r"fits\.jsonl, line 1 .* limit is 20;"):
        train.run(context)


def test_an_adapter_is_continued_from_and_the_record_says_from_which(started: Started) -> None:
    registry = started(SPEC).registry
    asked = {"name": "new", "train_dataset": "bio.train", "initial_adapter": "bio", "steps": 1}
    spec = planned_training(registry, {**asked, "learning_rate": 1e-12, "inactive_prefix": False}).register(
        registry
    )
    made = registry.adapters.get(train.run(started(spec))["adapter"])
    first = registry.adapters.get("bio")
    assert made.parameters["initial_adapter"] == "bio@1"
    assert (made.rank, made.alpha, made.target_modules) == (first.rank, first.alpha, first.target_modules)
    begun, ended = (
        load_file(registry.materialise(one) / "adapter_model.safetensors") for one in (first, made)
    )
    torch.testing.assert_close(ended, begun, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rank": 2}, r"rank must be left out, or as bio@1 has it: 4, got 2"),
        ({"target_modules": ["q_proj"]}, "target_modules must be left out, or as bio@1 has it"),
        ({"base": "other"}, r"base must be the base model of bio@1, pico, got 'other'"),
        ({"initial_adapter": "scaled"}, "initial_adapter must be an adapter with one rank and alpha"),
    ],
)
def test_an_adapter_of_another_shape_or_base_is_not_continued_from(
    started: Started, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    registry = started(SPEC).registry
    registry.bases.register(pico_base_folder(tmp_path / "other", seed=7), name="other", source="here")
    registry.adapters.register(pico_adapter(tmp_path / "scaled", seed=9, use_rslora=True), name="scaled")
    asked = {"name": "new", "train_dataset": "bio.train", "initial_adapter": "bio"}
    with pytest.raises(SpecInvalid, match=said):
        planned_training(registry, {**asked, **change})
