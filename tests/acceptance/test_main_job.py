"""The main job by commands: train, compose, reload, use, inspect; and what can go wrong."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT, Zoo
from tests.pico import pico_adapter


@pytest.fixture(scope="module", autouse=True)
def _composed(zoo: Zoo) -> None:
    """A base model, two trained adapters and their composition, which every test below looks at.

    The composition goes to MLflow, whose database lies in the home folder.
    """
    training = ("--base", "smollm2", "--steps", "30", "--learning-rate", "0.01", "-q")
    for arguments in (
        ("register", "base", "smollm2", "--name", "smollm2", "-q"),
        *(
            ("train", "--name", d, "--data", f"{d}.train.jsonl", "--eval-data", f"{d}.eval.jsonl", *training)
            for d in ("bio", "protein")
        ),
        ("compose", "--adapters", "bio,protein", "--name", "science", "--mixture-steps", "2", "-q"),
    ):
        done = zoo(*arguments, MLFLOW_TRACKING_URI="" if arguments[0] == "compose" else "none")
        assert done.returncode == 0, done.stderr


def test_the_report_compares_the_composition_with_everything_it_was_made_from(zoo: Zoo) -> None:
    shown = json.loads(zoo("compositions", "show", "science", "--json").stdout)
    report = shown["report"]
    assert report["subjects"] == [
        *("base", "bio", "protein", "uniform", "method core-ties", "method pico", "composed")
    ]
    assert report["scores"]["bio"]["bio"]["loss"] < report["scores"]["base"]["bio"]["loss"] / 2
    assert set(report["routing"]) == {"bio", "protein"}
    assert {finding["task"] for finding in report["verdict"]} == {"bio", "protein"}


def test_an_experts_score_in_the_report_is_its_score_alone(zoo: Zoo) -> None:
    report = json.loads(zoo("compositions", "show", "science", "--json").stdout)["report"]
    alone = json.loads(zoo("jobs", "show", "1", "--json").stdout)["outcome"]["scores"]["loss"]
    assert alone == pytest.approx(report["scores"]["bio"]["bio"]["loss"], rel=1e-4)


def test_the_report_is_printed_and_written_as_a_page(zoo: Zoo, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    shown = zoo("compositions", "report", "science", "--to", str(page))
    assert shown.returncode == 0, shown.stderr
    assert "without bio" in shown.stdout
    assert "science@1:" in page.read_text()
    assert json.loads(zoo("compositions", "report", "science", "--json").stdout)["reference"] == "science@1"


def test_the_same_request_gives_the_job_of_before_and_its_pictures(zoo: Zoo) -> None:
    before = json.loads(zoo("jobs", "ls", "--json").stdout)
    asked = ("--adapters", "bio,protein", "--name", "science", "--mixture-steps", "2")
    again = json.loads(zoo("compose", *asked, "--json").stdout)
    assert again["composition"] == "science@1"
    assert len(json.loads(zoo("jobs", "ls", "--json").stdout)) == len(before)
    # Stored relative to the zoo's folder, which may be moved.
    assert before[0]["outcome"]["pictures"] == f"jobs/{before[0]['id']}/pictures"
    assert sorted(path.name for path in Path(again["pictures"]).iterdir()) == [
        "layers.png",
        "scores.png",
        "tokens.png",
    ]


def test_the_composition_answers(zoo: Zoo) -> None:
    answer = zoo("generate", "science", "bio 3?", "--max-new-tokens", "4", "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)[0]["subject"] == "composition:science@1"


def test_an_untrained_mixture_is_composed_asked_and_exported(zoo: Zoo, tmp_path: Path) -> None:
    asked = ("--adapters", "bio,protein", "--name", "even", "--method", "uniform")
    refused = zoo("compose", *asked, "--mixture-steps", "2")
    assert refused.returncode == 2
    assert "--mixture-steps must be left out with the method uniform" in refused.stderr
    made = zoo("compose", *asked, "--json")
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)["report"]
    assert report["scores"]["composed"] == report["scores"]["uniform"]
    assert [path.name for path in Path(json.loads(made.stdout)["pictures"]).iterdir()] == ["scores.png"]
    answer = zoo("generate", "even", "bio 3?", "--max-new-tokens", "4", "--json")
    assert json.loads(answer.stdout)[0]["subject"] == "composition:even@1"
    exported = zoo("export", "even", str(tmp_path / "even"), "--format", "peft")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "even" / "adapter_config.json").exists()


def test_an_unknown_adapter_is_named_with_the_nearest(zoo: Zoo) -> None:
    done = zoo("compose", "--adapters", "bio,protien", "--name", "x")
    assert done.returncode == 3
    assert "ZOO-E212" in done.stderr
    assert "protein" in done.stderr


def test_another_bases_adapter_is_refused_and_leaves_no_record(zoo: Zoo, tmp_path: Path) -> None:
    from tests.pico import pico_llama

    foreign = pico_adapter(
        tmp_path / "foreign", seed=1, base=pico_llama(hidden_size=16, intermediate_size=48)
    )
    done = zoo("register", "adapter", str(foreign), "--name", "foreign", "--base", "smollm2")
    assert done.returncode == 4, done.stderr
    assert zoo("adapters", "show", "foreign").returncode == 3


def test_a_folder_that_is_no_lora_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    done = zoo("register", "adapter", str(tmp_path), "--name", "nothing")
    assert done.returncode != 0
    assert "ZOO-E24" in done.stderr


def test_a_pickle_is_refused_with_the_way_out(zoo: Zoo, tmp_path: Path) -> None:
    folder = pico_adapter(tmp_path / "pickled", seed=2)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    done = zoo("register", "adapter", str(folder), "--name", "pickled")
    assert done.returncode != 0
    assert "ZOO-E243" in done.stderr
    assert "zoo convert" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"messages": []}\n', "line 1"), ('{"messages"\n', "is not JSON"), ("", "empty")],
)
def test_a_bad_dataset_is_refused_by_line(zoo: Zoo, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "bad.train.jsonl"
    file.write_text(content)
    done = zoo("register", "dataset", str(file))
    assert done.returncode != 0
    assert "ZOO-E26" in done.stderr
    assert said in done.stderr
    assert zoo("datasets", "show", "bad.train").returncode == 3


def test_an_answer_longer_than_allowed_fails_the_job_without_an_adapter(zoo: Zoo) -> None:
    done = zoo(
        *("train", "--name", "long", "--base", "smollm2", "--data", "bio.train", "--steps", "1"),
        *("--warmup-steps", "0", "--max-tokens", "8"),
    )
    assert done.returncode == 7
    assert "ZOO-E351" in done.stderr
    assert zoo("adapters", "show", "long").returncode == 3


def test_a_dead_tracking_server_fails_no_job(zoo: Zoo) -> None:
    done = zoo(
        "eval", "bio", "--data", "protein.eval", "--limit", "2", MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    assert done.returncode == 0, done.stderr


def test_ctrl_c_cancels_the_job_and_keeps_its_checkpoint(zoo: Zoo, workplace: Path, tmp_path: Path) -> None:
    zoo("register", "base", "smollm2", "--name", "smollm2", ZOO_HOME=str(tmp_path))
    arguments = [
        *("train", "--name", "slow", "--base", "smollm2", "--data", "bio.train.jsonl"),
        *("--steps", "100000", "--checkpoint-every-s", "1000"),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "zoo", *arguments],
        cwd=workplace,
        env={
            **os.environ,
            "ZOO_HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": "none",
        },
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        progress = process.stderr
        assert progress is not None
        for line in progress:
            if "training" in line:
                break
        process.send_signal(signal.SIGINT)
        said = progress.read()
        assert process.wait(timeout=120) == 130, said
    job = json.loads(zoo("jobs", "show", "1", "--json", ZOO_HOME=str(tmp_path)).stdout)
    assert (job["state"], job["reason"]) == ("cancelled", "cancelled")
    assert list((tmp_path / "jobs" / "1").rglob("checkpoint-*/trainer_state.json"))
    assert zoo("adapters", "show", "slow", ZOO_HOME=str(tmp_path)).returncode == 3
