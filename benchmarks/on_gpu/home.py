"""A zoo of its own with a base model of random weights, and the `zoo` command in it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.on_gpu.models import random_base
from benchmarks.on_gpu.parts import Setting
from tests.pico import pico_tokenizer

_ROOT = Path(__file__).parents[2]

DOMAINS = ("bio", "materials")


class Home:
    """The zoo in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "ZOO_HOME": str(folder / "home"),
            "MLFLOW_TRACKING_URI": "none",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }

    def start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command; its output goes where this process's goes."""
        command = [sys.executable, "-P", "-m", "zoo", *words]
        return subprocess.Popen(command, env={**self.environment, **environment}, cwd=self.folder)

    def run(self, *words: str, **environment: str) -> str:
        """What a command prints.

        Raises:
            CalledProcessError: it failed.
        """
        command = [sys.executable, "-P", "-m", "zoo", *words]
        return subprocess.run(
            command,
            env={**self.environment, **environment},
            cwd=self.folder,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def json(self, *words: str) -> Any:
        """What a command prints as JSON."""
        return json.loads(self.run(*words, "--json"))

    def train(self, name: str, *more: str) -> tuple[str, ...]:
        """The words that train an adapter on a domain's examples."""
        given = dict(zip(more[::2], more[1::2], strict=True))
        options = {"--base": "base", "--data": f"{name}.train", "--name": name, "--steps": "4"}
        options |= {"--batch-size": "4"} | given
        return ("train", *(word for pair in options.items() for word in pair))


def stocked(setting: Setting) -> Home:
    """A zoo with a base model and two domains' examples."""
    base = random_base("135M", setting)
    folder = setting.folder / "base"
    base.save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    home = Home(setting.folder)
    home.run("register", "base", str(folder), "--name", "base", "-q")
    # So long that a step of 32 takes more than a nearly full GPU has left, and not too long to be taken.
    file = setting.folder / "long.train.jsonl"
    file.write_text(_examples("long", 32, repeated=20), encoding="utf-8")
    home.run("register", "dataset", str(file), "--name", "long.train", "-q")
    for domain in DOMAINS:
        for split in ("train", "eval"):
            file = setting.folder / f"{domain}.{split}.jsonl"
            file.write_text(_examples(domain, 24 if split == "train" else 6), encoding="utf-8")
            home.run("register", "dataset", str(file), "--name", f"{domain}.{split}", "-q")
    return home


def _examples(domain: str, count: int, *, repeated: int = 1) -> str:
    pairs = [
        (f"{domain} question {number}?", f"{domain} answer {number * 7 % 10} " * repeated)
        for number in range(count)
    ]
    lines = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in pairs
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)
