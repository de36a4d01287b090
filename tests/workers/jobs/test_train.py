"""A trained adapter is scored on the base model that it was trained on, which says what it computed in."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry.service import Registry
from tests.pico import pico_base_folder, pico_tokenizer
from tests.workers.stocked_zoo import Started
from workers.jobs import evaluation, loading, train
from workers.requests.specs import EvalSpec, TrainSpec
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
    assert set(outcome["scores"]) == {"loss", "exact_match"}


def test_the_scores_are_those_of_the_adapter_loaded_anew(started: Started) -> None:
    outcome = train.run(started(SPEC))
    asked = EvalSpec(subjects=(f"adapter:{outcome['adapter']}",), datasets={"bio": "bio.eval@1"})
    (anew,) = evaluation.run(started(asked))["scores"].values()
    assert outcome["scores"]["loss"] == pytest.approx(anew["bio"]["loss"], abs=1e-6)


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
