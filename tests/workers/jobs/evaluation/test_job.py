"""The eval job: what suits the data is measured, kept example by example, and compared with a baseline."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from registry.service import Registry
from tests.pico import pico_llama, pico_tokenizer
from tests.workers.stocked_zoo import Started
from workers.errors import SpecInvalid
from workers.jobs.evaluation import job
from workers.requests.evaluation import AskedTask, evaluation_request
from workers.requests.specs import EvalSpec

#: Writes examples to a file of this name.
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_COMPUTE_DTYPE", "float32")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, *answers: str, **more: Any) -> Path:
        path = tmp_path / f"{name}.eval.jsonl"
        lines = [
            {
                "messages": [
                    {"role": "user", "content": f"question {number}?"},
                    {"role": "assistant", "content": answer},
                ],
                **more,
            }
            for number, answer in enumerate(answers)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return written


def requested(registry: Registry, *subjects: str, data: Path, **fields: Any) -> EvalSpec:
    tasks = [AskedTask(data=str(data), task="task")]
    return evaluation_request(registry, subjects=subjects, tasks=tasks, **fields)


def run(started: Started, spec: EvalSpec) -> Mapping[str, Any]:
    return job.run(started(spec))


def test_every_metric_of_answers_has_a_value_and_an_error(
    stocked: Registry, started: Started, write: Write
) -> None:
    spec = requested(stocked, "pico", "bio", data=write("words", "ab", "cd e"), metrics=("all",))
    scores = run(started, spec)["scores"]
    names = {"loss", "perplexity", "bits_per_byte", "exact_match", "f1", "rouge_l"}
    for subject in ("base:pico", "adapter:bio@1"):
        score = scores[subject]["task"]
        assert score.keys() == names | {"n", "standard_errors"}
        assert score["standard_errors"].keys() == names
        assert score["perplexity"] == pytest.approx(math.exp(score["loss"]))


def test_the_examples_are_kept_with_the_values_and_with_what_these_depend_on(
    stocked: Registry, started: Started, write: Write
) -> None:
    run(started, requested(stocked, "bio", data=write("words", "ab", "cd e"), metrics=("loss", "f1")))
    found = stocked.evaluations.list("adapter:bio@1")
    assert {one.metric for one in found} == {"loss", "f1"}
    assert {"limit", "batch_tokens", "compute_dtype", "versions", "max_new_tokens"} <= found[
        0
    ].settings.keys()
    rows = stocked.evaluations.examples(found[0], cache=stocked.settings.home / "cache")
    assert [(row["line"], row["question"], row["expected"]) for row in rows] == [
        (1, "question 0?", "ab"),
        (2, "question 1?", "cd e"),
    ]
    assert all(isinstance(row["answer"], str) for row in rows)
    # One token a byte, and the end of the turn.
    total = sum(row["loss"] * row["tokens"] for row in rows)
    loss = next(one.value for one in found if one.metric == "loss")
    assert total / (3 + 5) == pytest.approx(loss)


def test_quantities_are_recognised_and_their_answers_generated(
    stocked: Registry, started: Started, write: Write
) -> None:
    outcome = run(started, requested(stocked, "pico", data=write("numbers", "1 kg", "2 kg")))
    score = outcome["scores"]["base:pico"]["task"]
    assert score["numeric_match"] == 0
    # Its answers hold no numbers, so there is nothing that they could explain.
    assert "r2" not in score
    assert any("r2 is not defined" in warning for warning in outcome["warnings"])


def test_choices_are_weighed_as_a_plain_loop_weighs_them(
    stocked: Registry, started: Started, write: Write
) -> None:
    choices = ["ab", "cde", "f"]
    run(started, requested(stocked, "pico", data=write("choices", "cde", choices=choices)))
    accuracy = next(one for one in stocked.evaluations.list("base:pico") if one.metric == "accuracy")
    (row,) = stocked.evaluations.examples(accuracy, cache=stocked.settings.home / "cache")
    tokenizer, model = pico_tokenizer(), pico_llama()
    asked = [{"role": "user", "content": "question 0?"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    for choice in choices:
        begin = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tokens = tokenizer(choice, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([begin + tokens])).logits[0, len(begin) - 1 : -1]
        expected = -float(F.cross_entropy(logits, torch.tensor(tokens), reduction="sum"))
        assert row["choices"][choice] == pytest.approx(expected, abs=1e-4)
    assert accuracy.value == float(max(row["choices"], key=row["choices"].__getitem__) == "cde")


def test_what_the_data_lack_is_refused_by_name(stocked: Registry, started: Started, write: Write) -> None:
    spec = requested(stocked, "bio", data=write("words", "ab"), metrics=("accuracy",))
    with pytest.raises(SpecInvalid, match="accuracy needs that each has choices"):
        run(started, spec)


def test_subjects_are_compared_with_the_base_model_example_by_example(
    stocked: Registry, started: Started, write: Write
) -> None:
    spec = requested(stocked, "bio", data=write("words", "ab", "cd e", "f"), baseline="base")
    assert spec.subjects == ("base:pico", "adapter:bio@1")
    outcome = run(started, spec)
    differences = {row["metric"]: row for row in outcome["differences"]}
    assert differences.keys() == {"loss", "perplexity", "bits_per_byte", "exact_match"}
    loss = differences["loss"]
    ours, theirs = (outcome["scores"][subject]["task"]["loss"] for subject in ("adapter:bio@1", "base:pico"))
    assert loss["difference"] == pytest.approx(ours - theirs)
    assert loss["low"] <= loss["difference"] <= loss["high"]
    assert (loss["against"], loss["n"]) == ("base:pico", 3)


def test_a_baseline_is_one_of_the_subjects_and_a_metric_one_of_the_table() -> None:
    asked: dict[str, Any] = {"subjects": ("adapter:bio@1",), "datasets": {"bio": "bio.eval@1"}}
    with pytest.raises(SpecInvalid, match="baseline must be one of the subjects"):
        EvalSpec(**asked, baseline="base:pico")
    with pytest.raises(SpecInvalid, match="rouge_l, got 'bleu'"):
        EvalSpec(**asked, metrics=("bleu",))
