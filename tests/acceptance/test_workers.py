"""Jobs that wait for a worker, and one that is killed in the middle of training."""

import json
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from registry.settings import Settings
from tests.acceptance.conftest import Zoo
from tests.workers.processes import running, send, trainers, wait_until

WORKER = (sys.executable, "-m", "zoo", "worker")


def _queue(zoo: Zoo, name: str, home: Path) -> int:
    done = zoo(
        *("train", "--name", name, "--base", "smollm2", "--data", "bio.train.jsonl", "--detach", "--json"),
        *("--steps", "80", "--dropout", "0.1", "--checkpoint-every-s", "0.05"),
        ZOO_HOME=str(home),
    )
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["job"])


def test_a_trainer_that_is_killed_resumes_to_the_weights_of_an_undisturbed_one(
    zoo: Zoo, tmp_path: Path
) -> None:
    home = tmp_path / "zoo"
    settings = Settings.from_env({"ZOO_HOME": str(home)})
    assert zoo("register", "base", "smollm2", "--name", "smollm2", ZOO_HOME=str(home)).returncode == 0
    killed, calm = _queue(zoo, "killed", home), _queue(zoo, "calm", home)
    with running(WORKER, settings) as worker:
        checkpoints = home / "jobs" / str(killed) / "training" / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("checkpoint-*/seal.json")), what="a checkpoint")
        for trainer in trainers(worker.pid):
            send(trainer, signal.SIGKILL)
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
