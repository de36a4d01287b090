"""Queued jobs, and a job that is killed during training."""

import json
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from registry.settings import Settings
from tests.acceptance.conftest import Zoo
from tests.pico import pico_adapter
from tests.workers.started_processes import command_line, job_processes, listening, running, send, wait_until
from workers.tracking.spool import read_lines

#: Of the job in two processes, which must still be at work when one of them is killed.
STEPS = 20
WORKER = (sys.executable, "-m", "zoo", "worker")


def settings_in(home: Path) -> Settings:
    return Settings.from_env({"ZOO_HOME": str(home), "MLFLOW_TRACKING_URI": "none"})


def steps_of(job: Path, metric: str) -> list[int]:
    """The steps whose metric was recorded, in order, a repeated step twice."""
    lines = [line.record for line in read_lines(job, offset=0)]
    return [line["step"] for line in lines if metric in line.get("values", {})]


def _queue(zoo: Zoo, name: str, home: Path, *options: str) -> int:
    done = zoo(
        *("train", "--name", name, "--base", "smollm2", "--data", "bio.train.jsonl", "--detach", "--json"),
        *("--dropout", "0.1", "--checkpoint-every-s", "0.05", *(options or ("--steps", "20"))),
        ZOO_HOME=str(home),
    )
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["job"])


def test_a_job_process_that_is_killed_resumes_to_the_weights_of_an_undisturbed_one(
    zoo: Zoo, tmp_path: Path
) -> None:
    home = tmp_path / "zoo"
    settings = settings_in(home)
    assert zoo("register", "base", "smollm2", "--name", "smollm2", ZOO_HOME=str(home)).returncode == 0
    killed, calm = _queue(zoo, "killed", home), _queue(zoo, "calm", home)
    with running(WORKER, settings) as worker:
        checkpoints = home / "jobs" / str(killed) / "training" / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("checkpoint-*/manifest.json")), what="a checkpoint")
        for job_process in job_processes(worker.pid):
            send(job_process, signal.SIGKILL)
        time.sleep(0.1)
        waited = zoo("jobs", "wait", str(killed), str(calm), "--timeout", "200", ZOO_HOME=str(home))
        assert waited.returncode == 0, waited.stdout + waited.stderr
    jobs = [
        json.loads(zoo("jobs", "show", str(job), "--json", ZOO_HOME=str(home)).stdout)
        for job in (killed, calm)
    ]
    assert [job["fence"] for job in jobs] == [2, 1]
    first, second = (
        load_file(home / "jobs" / str(job["id"]) / "training" / "adapter" / "adapter_model.safetensors")
        for job in jobs
    )
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], rtol=0, atol=1e-6) for name in first)


def test_a_job_in_two_processes_loses_one_and_goes_on_from_its_checkpoint(zoo: Zoo, tmp_path: Path) -> None:
    home = tmp_path / "zoo"
    assert zoo("register", "base", "smollm2", "--name", "smollm2", ZOO_HOME=str(home)).returncode == 0
    job = _queue(zoo, "pair", home, "--processes", "2", "--steps", str(STEPS))
    folder = home / "jobs" / str(job)
    with running(WORKER, settings_in(home)) as worker:
        checkpoints = folder / "training" / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("checkpoint-*/manifest.json")), what="a checkpoint")
        members = [pid for pid in job_processes(worker.pid) if "process-" in command_line(pid)]
        assert len(members) == 2
        # Whoever listens for the other listens where nobody outside the machine can come.
        assert {address for pid in members for address in listening(pid)} == {"127.0.0.1"}
        send(next(pid for pid in members if "process-1" in command_line(pid)), signal.SIGKILL)
        waited = zoo("jobs", "wait", str(job), "--timeout", "200", ZOO_HOME=str(home))
        assert waited.returncode == 0, waited.stdout + waited.stderr
        assert job_processes(worker.pid) == []
        assert not [pid for pid in members if command_line(pid)]
    shown = json.loads(zoo("jobs", "show", str(job), "--json", ZOO_HOME=str(home)).stdout)
    assert (shown["state"], shown["fence"]) == ("succeeded", 2)
    steps = steps_of(folder, "train/loss")
    assert (steps.count(1), steps[-1]) == (1, STEPS)


def test_a_composition_that_is_killed_goes_on_to_the_head_of_an_undisturbed_one(
    zoo: Zoo, workplace: Path, tmp_path: Path
) -> None:
    home = {"ZOO_HOME": str(tmp_path / "zoo")}
    assert zoo("register", "base", "smollm2", "--name", "smollm2", **home).returncode == 0
    for name, seed in (("bio", 1), ("protein", 2)):
        folder = pico_adapter(tmp_path / name, seed=seed)
        for what in (
            ("adapter", str(folder), "--name", name, "--base", "smollm2"),
            ("dataset", f"{name}.train.jsonl"),
            ("dataset", f"{name}.eval.jsonl"),
        ):
            added = zoo("register", *what, **home)
            assert added.returncode == 0, added.stderr

    def compose(name: str) -> int:
        done = zoo(
            *("compose", "--adapters", "bio,protein", "--name", name, "--detach", "--json"),
            *("--data", "bio=bio.train", "--data", "protein=protein.train"),
            *("--eval-data", "bio=bio.eval", "--eval-data", "protein=protein.eval"),
            *("--warm-start-steps", "4", "--mixture-steps", "40", "--checkpoint-every-s", "0.05"),
            **home,
        )
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)["job"])

    killed, calm = compose("killed"), compose("calm")
    jobs = tmp_path / "zoo" / "jobs"
    with running(WORKER, settings_in(tmp_path / "zoo")) as worker:
        checkpoints = jobs / str(killed) / "training" / "mixture"
        wait_until(lambda: any(checkpoints.glob("checkpoint-*/manifest.json")), what="a checkpoint")
        for job_process in job_processes(worker.pid):
            send(job_process, signal.SIGKILL)
        waited = zoo("jobs", "wait", str(killed), str(calm), "--timeout", "200", **home)
        assert waited.returncode == 0, waited.stdout + waited.stderr
    shown = json.loads(zoo("jobs", "show", str(killed), "--json", **home).stdout)
    assert shown["fence"] == 2
    first, second = (steps_of(jobs / str(job), "mixture/loss") for job in (killed, calm))
    assert first.count(1) == 1
    assert sorted(set(first)) == second
    heads = [load_file(jobs / str(job) / "composition" / "head.safetensors") for job in (killed, calm)]
    assert heads[0].keys() == heads[1].keys()
    assert all(torch.allclose(heads[0][name], heads[1][name], rtol=0, atol=1e-6) for name in heads[1])


def test_more_processes_than_gpus_are_refused_or_left_for_a_worker_that_has_them(
    zoo: Zoo, tmp_path: Path
) -> None:
    gpus = {"ZOO_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}
    zoo("register", "base", "smollm2", "--name", "smollm2", **gpus)
    arguments = (
        "train",
        "--name",
        "bio",
        "--base",
        "smollm2",
        "--data",
        "bio.train.jsonl",
        "--processes",
        "4",
    )
    refused = zoo(*arguments, **gpus)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert (
        "processes must be at most 2, one for each GPU that may be used here (GPU-a, GPU-b), got 4"
        in refused.stderr
    )
    assert json.loads(zoo("jobs", "ls", "--json", **gpus).stdout) == []
    left = zoo(*arguments, "--detach", **gpus)
    assert left.returncode == 0, left.stderr
    assert "zoo worker --queue gpu --gpu 0,1,2,3" in left.stderr


def test_what_is_detached_says_what_to_type_next(zoo: Zoo, tmp_path: Path) -> None:
    zoo("register", "base", "smollm2", "--name", "smollm2", ZOO_HOME=str(tmp_path))
    arguments = ("train", "--name", "bio", "--base", "smollm2", "--data", "bio.train.jsonl", "--detach")
    done = zoo(*arguments, "--queue", "gpu", "--deadline", "2h", ZOO_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "queued as #1 on gpu" in done.stdout
    assert "zoo jobs wait 1" in done.stdout
    assert "zoo worker --queue gpu" in done.stderr
    assert zoo(*arguments, "--deadline", "soon", ZOO_HOME=str(tmp_path)).returncode == 2
    again = zoo(*arguments, ZOO_HOME=str(tmp_path))
    assert "queued as #1 on gpu" in again.stdout
