"""Asking for a job without a command: the record is the one that the command makes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.entities import Job
from registry.service import Registry
from registry.settings import Settings
from tests.command_line import Ask
from tests.registry.folders import write_dataset
from workers.errors import JobCancelled, JobFailed, SpecInvalid
from workers.requests.composition import composition_request, planned_composition
from workers.requests.composition_data import AskedData
from workers.requests.composition_plan import Request
from workers.requests.evaluation import AskedTask, evaluation_request
from workers.requests.placement import Placement
from workers.requests.submission import require_success, submit, waits_for_a_worker
from workers.requests.training import training_request

#: What of a job says what was asked for.
ASKED = ("kind", "spec", "spec_digest", "queue", "priority", "max_attempts", "processes")


def asked_of(job: Job) -> dict[str, object]:
    return {name: getattr(job, name) for name in ASKED}


@pytest.fixture
def zoo(catalogue: Path) -> Iterator[Registry]:
    with Registry.open(Settings.from_env(os.environ)) as opened:
        yield opened


def by_command(zoo: Registry, ask: Ask, *arguments: str) -> Job:
    queued = ask(*arguments, "--detach", "--force", "-q")
    assert queued.code == 0, queued.err
    return zoo.jobs.get(int(queued.out))


def test_a_training_asked_for_without_a_command_is_the_commands(
    zoo: Registry, ask: Ask, tmp_path: Path
) -> None:
    file = str(write_dataset(tmp_path / "new.train.jsonl"))
    spec = training_request(
        zoo, name="new", base="pico", data=file, eval_data="bio.eval", steps=3, description="three steps"
    )
    job = submit(zoo, spec, placement=Placement(priority=4)).job
    assert (job.spec["train_dataset"], job.spec["eval_dataset"]) == ("new.train@1", "bio.eval@1")
    assert (job.spec["domains"], job.spec["warmup_steps"]) == (["new"], 3)
    command = by_command(
        zoo, ask,
        *("train", "--name", "new", "--base", "pico", "--data", file, "--eval-data", "bio.eval"),
        *("--steps", "3", "--description", "three steps", "--priority", "4"),
    )  # fmt: skip
    assert asked_of(command) == asked_of(job)
    assert command.id != job.id


def test_an_evaluation_asked_for_without_a_command_is_the_commands(
    zoo: Registry, ask: Ask, tmp_path: Path
) -> None:
    file = str(write_dataset(tmp_path / "law.eval.jsonl"))
    tasks = [AskedTask(data="bio.eval"), AskedTask(data=file, task="rights")]
    spec = evaluation_request(zoo, subjects=["bio", "pico"], tasks=tasks, limit=2, batch_tokens=64)
    job = submit(zoo, spec).job
    assert job.spec["subjects"] == ["adapter:bio@2", "base:pico"]
    assert job.spec["datasets"] == {"bio": "bio.eval@1", "rights": "law.eval@1"}
    command = by_command(
        zoo, ask,
        *("eval", "bio", "pico", "--data", "bio.eval", "--data", f"rights={file}"),
        *("--limit", "2", "--batch-tokens", "64"),
    )  # fmt: skip
    assert asked_of(command) == asked_of(job)


def test_a_composition_asked_for_without_a_command_is_the_commands(zoo: Registry, ask: Ask) -> None:
    data = {"biology": "bio.eval", "proteins": "bio.eval"}
    request = Request(
        name="both",
        adapters=("bio@1", "protein"),
        data=AskedData(labelled=data, evaluated=data),
        budget={"mixture_steps": 2},
    )
    job = submit(zoo, composition_request(zoo, planned_composition(zoo, request))).job
    assert job.spec["adapters"] == ["bio@1", "protein@1"]
    pairs = [part for domain in data for part in ("--data", f"{domain}=bio.eval")]
    held_out = [part for domain in data for part in ("--eval-data", f"{domain}=bio.eval")]
    command = by_command(
        zoo, ask,
        *("compose", "--name", "both", "--adapters", "bio@1,protein", "--mixture-steps", "2"),
        *pairs, *held_out,
    )  # fmt: skip
    assert asked_of(command) == asked_of(job)


def test_a_request_that_is_refused_registers_no_file(zoo: Registry, tmp_path: Path) -> None:
    file = str(write_dataset(tmp_path / "new.train.jsonl"))
    with pytest.raises(SpecInvalid, match="rank"):
        training_request(zoo, name="new", base="pico", data=file, rank=0)
    with pytest.raises(SpecInvalid, match=r"datasets must be of different tasks.*'bio'"):
        evaluation_request(zoo, subjects=["bio"], tasks=[AskedTask(data="bio.eval")] * 2)
    with pytest.raises(SpecInvalid, match="batch_tokens"):
        evaluation_request(zoo, subjects=["bio"], tasks=[AskedTask(data=file)], batch_tokens=0)
    assert [row["reference"] for row in zoo.datasets.list()] == ["bio.eval@1"]


def test_an_equal_request_says_what_of_its_placement_does_not_hold(zoo: Registry) -> None:
    spec = training_request(zoo, name="new", base="pico", data="bio.eval")
    first = submit(zoo, spec, placement=Placement(queue="cpu", priority=5))
    assert first.ignored == {}
    assert waits_for_a_worker(zoo, first.job)
    again = submit(zoo, spec, placement=Placement(queue="gpu", priority=0, deadline_s=60.0))
    assert again.job.id == first.job.id
    assert again.ignored == {"queue": "is on cpu", "priority": "has 5", "deadline": "has no deadline"}
    assert submit(zoo, spec).ignored == {}
    zoo.workers.announce("w", host="box", process_id=7, queues=["cpu"], gpu=None, state="working")
    assert not waits_for_a_worker(zoo, first.job)


@pytest.mark.parametrize(("state", "error"), [("failed", JobFailed), ("cancelled", JobCancelled)])
def test_a_job_without_a_result_is_an_error(zoo: Registry, state: str, error: type[Exception]) -> None:
    job = submit(zoo, training_request(zoo, name="new", base="pico", data="bio.eval")).job
    claim = zoo.jobs.claim(job.id, owner="here", lease_s=60)
    assert claim is not None
    zoo.jobs.finish(job.id, fence=claim.fence, state=state, reason="error")
    with pytest.raises(error):
        require_success(zoo.jobs.get(job.id))
