"""A zoo for each module: a working folder, and the command as a user runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pico import pico_adapter, pico_base_folder

ROOT = Path(__file__).parents[2]
DOMAINS = ("bio", "protein", "materials")

Zoo = Callable[..., "subprocess.CompletedProcess[str]"]


def write_dataset(path: Path, *, domain: str, first: int, examples: int = 24) -> None:
    """Chat JSONL that a pico model learns in a few steps: questions of a domain have one answer."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"{domain} {first + number}?"},
                    {"role": "assistant", "content": domain[0] * 2},
                ],
                "domain": domain,
            }
        )
        for number in range(examples)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, an adapter and datasets, under the names that the README uses."""
    folder = tmp_path_factory.mktemp("workplace")
    pico_base_folder(folder / "smollm2")
    pico_adapter(folder / "my-bio-lora", seed=7)
    for domain in DOMAINS:
        write_dataset(folder / f"{domain}.train.jsonl", domain=domain, first=0)
        write_dataset(folder / f"{domain}.eval.jsonl", domain=domain, first=1000, examples=8)
    (folder / "alpaca.json").write_text(
        '[{"instruction": "What is iron?", "input": "", "output": "A metal."}]'
    )
    metals = "".join(f"What is metal {number}?,Metal {number}.\n" for number in range(10))
    (folder / "metals.csv").write_text(f"question,answer\n{metals}")
    (folder / "table.csv").write_text("frage,antwort\nWas ist Eisen?,Ein Metall.\n")
    (folder / "one-bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n')
    return folder


@pytest.fixture(scope="module")
def zoo(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Run `zoo` with these arguments in the working folder, with the module's own zoo."""
    return zoo_in(workplace, home=tmp_path_factory.mktemp("home"))


def zoo_in(workplace: Path, *, home: Path) -> Zoo:
    """Runs `zoo` in a folder, in the installation that lies in `home`."""
    environment = {
        **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
        "HOME": str(home),
        "ZOO_HOME": str(home / "zoo"),
        "ZOO_THREADS": "1",
        # In bfloat16 batches of other examples are rounded otherwise, to 1 in 256.
        "ZOO_COMPUTE_DTYPE": "float32",
        "MLFLOW_TRACKING_URI": "none",  # costs each job three seconds; the test that wants it says so
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
    }

    def run(*arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "zoo", *arguments],
            cwd=workplace,
            env=environment | extra,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run
