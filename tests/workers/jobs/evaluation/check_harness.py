"""Run apart, with lm-evaluation-harness on the path: a subject scores what its own `hf` model scores.

PYTHONPATH=.venv/lm_eval python -m pytest -W ignore tests/workers/jobs/evaluation/check_harness.py
"""

import json
import random
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401 - it fills the registry only while that is empty
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.registry import model_registry
from lm_eval.tasks import TaskManager
from rouge_score.rouge_scorer import RougeScorer

from registry.service import Registry
from tests.workers.stocked_zoo import Started
from workers.errors import SpecInvalid
from workers.jobs.evaluation import job
from workers.requests.specs import EvalSpec
from xlora_engine.metrics.texts import rouge_l

TASKS = ("zoo_choice", "zoo_text", "zoo_answer")

_COMMON = """task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
_OWN = {
    "zoo_choice": "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: answer\n"
    "metric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "zoo_text": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: \"{{question}}\"\n"
    "metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]\n",
    "zoo_answer": 'output_type: generate_until\ndoc_to_target: "{{choices[0]}}"\n'
    "generation_kwargs: {until: ['x'], max_gen_toks: 8}\nmetric_list: [{metric: exact_match}]\n",
}
QUESTIONS = [
    {"question": f"question {number}:", "choices": ["ab", "cde", "f g"], "answer": number % 3}
    for number in range(7)
]


pytestmark = pytest.mark.processes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZOO_COMPUTE_DTYPE", "float32")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    for task, own in _OWN.items():
        common = _COMMON.format(task=task, data=data)
        if "doc_to_text" in own:
            common = common[: common.index("doc_to_text")]
        (tasks / f"{task}.yaml").write_text(common + own)
    return tasks


def of_harness(model: str, arguments: Any, folder: Path, **options: Any) -> dict[str, dict[str, float]]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(
        model=model, model_args=arguments, tasks=list(TASKS), task_manager=manager, batch_size=8, **options
    )
    return {
        task: {
            name.removesuffix(",none"): value
            for name, value in results.items()
            if name.endswith(",none") and "stderr" not in name
        }
        for task, results in found["results"].items()
    }


@pytest.mark.parametrize("chat_template", [False, True])
def test_an_adapter_scores_what_the_harness_gives_it_with_peft(
    stocked: Registry, started: Started, tmp_path: Path, folder: Path, chat_template: bool
) -> None:
    asked = {"lm_eval": TASKS, "include_path": str(folder), "chat_template": chat_template}
    outcome = job.run(started(EvalSpec(subjects=("adapter:bio@1",), **asked)))  # type: ignore[arg-type]
    ours = outcome["scores"]["adapter:bio@1"]
    arguments = {
        "pretrained": str(tmp_path / "pico"),
        "peft": str(tmp_path / "bio"),
        "dtype": "float32",
        "device": "cpu",
    }
    theirs = of_harness("hf", arguments, folder, apply_chat_template=chat_template)
    base = of_harness("hf", {**arguments, "peft": None}, folder, apply_chat_template=chat_template)
    for task in TASKS:
        assert {name: ours[task][name] for name in theirs[task]} == pytest.approx(theirs[task], rel=1e-5)
        assert ours[task]["n"] == len(QUESTIONS)
    assert theirs["zoo_text"] != pytest.approx(base["zoo_text"], rel=1e-3)
    recorded = stocked.evaluations.list("adapter:bio@1", task="zoo_choice")
    assert {one.metric for one in recorded} == {"acc", "acc_norm"}
    assert all(one.standard_error is not None for one in recorded)
    rows = stocked.evaluations.examples(recorded[0], cache=tmp_path / "cache")
    assert [row["line"] for row in rows] == list(range(1, 8))


def test_the_harness_finds_a_subject_by_its_name(
    stocked: Registry, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = stocked.settings
    monkeypatch.setenv("ZOO_HOME", str(settings.home))
    monkeypatch.setenv("ZOO_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("ZOO_ARTIFACT_ROOT", settings.artifact_root)
    model_registry.register("zoo", target="workers.jobs.evaluation.harness_model:ZooLM")
    ours = of_harness("zoo", "subject=protein", folder)
    arguments = {
        "pretrained": str(tmp_path / "pico"),
        "peft": str(tmp_path / "protein"),
        "dtype": "float32",
        "device": "cpu",
    }
    theirs = of_harness("hf", arguments, folder)
    for task in TASKS:
        assert ours[task] == pytest.approx(theirs[task], rel=1e-5)


def test_the_zoo_weighs_choices_as_the_harness_does(
    started: Started, stocked: Registry, folder: Path
) -> None:
    data = folder.parent / "questions.jsonl"
    reference = stocked.datasets.register(data, name="questions").reference
    asked = EvalSpec(
        subjects=("adapter:bio@1",),
        datasets={"own": reference},
        lm_eval=("zoo_choice",),
        include_path=str(folder),
        chat_template=True,
    )
    scores = job.run(started(asked))["scores"]["adapter:bio@1"]
    assert scores["own"]["accuracy"] == pytest.approx(scores["zoo_choice"]["acc"])
    assert scores["own"]["accuracy_norm"] == pytest.approx(scores["zoo_choice"]["acc_norm"])


def test_a_task_that_is_not_there_is_refused(started: Started, folder: Path) -> None:
    asked = EvalSpec(subjects=("base:pico",), lm_eval=("zoo_chioce",), include_path=str(folder))
    with pytest.raises(SpecInvalid, match="zoo_choice"):
        job.run(started(asked))


def test_rouge_l_is_that_of_rouge_score() -> None:
    scorer, draw = RougeScorer(["rougeL"]), random.Random(0)
    words = ["the", "cat", "Sat.", "on", "a-mat", "3.5", "x_y"]
    for _ in range(200):
        answer, expected = (" ".join(draw.choices(words, k=draw.randrange(8))) for _ in range(2))
        found = scorer.score(expected, answer)["rougeL"].fmeasure
        assert rouge_l(answer, expected) == pytest.approx(found), (answer, expected)
