"""From registered files to an answer of their composition, through all services of compose.yaml."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner

import zoo
from registry.service import Registry
from registry.settings import Settings
from tests.acceptance.conftest import DOMAINS, write_dataset
from tests.deployment.composition import Machine
from tests.pico import pico_adapter, pico_base_folder
from tests.workers.started_processes import end_tree, wait_until

_PARTS = (("data", "train"), ("eval-data", "eval"))


@contextmanager
def _serving(here: Machine, *services: str) -> Iterator[None]:
    started = [here.start(service) for service in services]
    try:
        yield
    finally:
        for process in started:
            end_tree(process)


def _register(folder: Path, environment: dict[str, str]) -> None:
    """Register a base model, three adapters, and data for training and the report, by the commands."""
    pico_base_folder(folder / "pico")
    asked: list[tuple[object, ...]] = [("base", folder / "pico", "--name", "pico")]
    for seed, domain in enumerate(DOMAINS):
        pico_adapter(folder / domain, seed=seed)
        asked.append(("adapter", folder / domain, "--name", domain, "--domain", domain, "--base", "pico"))
        for part, first in (("train", 0), ("eval", 1000)):
            write_dataset(folder / f"{domain}.{part}.jsonl", domain=domain, first=first, examples=6)
            asked.append(("dataset", folder / f"{domain}.{part}.jsonl"))
    for arguments in asked:
        done = CliRunner(env=environment).invoke(zoo.cli, ["register", *map(str, arguments), "-q"])
        assert done.exit_code == 0, done.output


def test_a_composition_goes_from_its_files_to_an_answer_over_all_services(
    machine: Machine, tmp_path: Path
) -> None:
    environment = machine.environment("zoo")
    _register(tmp_path, {name: value for name, value in environment.items() if name not in os.environ})
    with (
        Registry.open(Settings.from_env(environment)) as registry,
        _serving(machine, "relay", "worker-cpu", "worker-cpu"),
    ):
        wait_until(lambda: len(registry.workers.list()) == 2, what="both workers are there")
        data = [f"--{of}={domain}={domain}.{part}" for domain in DOMAINS for of, part in _PARTS]
        small = ("--warm-start-steps=2", "--mixture-steps=2", "--samples-per-domain=4", "--eval-examples=2")
        queued = machine.run(
            *("zoo", "compose", "--adapters", ",".join(DOMAINS), "--name", "science", "--detach", "-q"),
            *(*data, *small),
            service="zoo",
        )
        assert queued.returncode == 0, queued.stderr
        job = queued.stdout.strip()
        waited = machine.run("zoo", "jobs", "wait", job, "--timeout", "100", service="zoo")
        assert waited.returncode == 0, waited.stdout + waited.stderr
        ended = registry.jobs.get(int(job))
        assert ended.worker in {worker.name for worker in registry.workers.list()}
        assert (ended.attempt, ended.fence, ended.run_id is None) == (1, 1, False)
    shown = machine.run("zoo", "compositions", "show", "science", "--json", service="zoo")
    merged = ("method core-ties", "method pico")
    assert json.loads(shown.stdout)["report"]["subjects"] == [
        "base",
        *DOMAINS,
        "uniform",
        *merged,
        "composed",
    ]
    answer = machine.run(
        "zoo", "generate", "science", "bio 3?", "--max-new-tokens", "4", "--json", service="zoo"
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)[0]["subject"] == "composition:science@1"
