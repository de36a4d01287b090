"""Build the example datasets from the facts of openly licensed packages; the same bytes every time.

python -m examples.build [FOLDER]
"""

import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from examples import bio, materials, mixed, protein
from examples.chat_example import ChatExample, write_jsonl
from examples.tasks import Task

DOMAINS: Mapping[str, Callable[[], tuple[Task, ...]]] = {
    "bio": bio.tasks,
    "protein": protein.tasks,
    "materials": materials.tasks,
}


def domain_examples(name: str) -> tuple[list[ChatExample], list[ChatExample]]:
    """Return training examples in random order, and evaluation examples by task."""
    rng = random.Random(f"adapter-zoo {name}")
    train, evaluation = [], []
    for task in DOMAINS[name]():
        kept, held_out = task.split(name, rng)
        train += kept
        evaluation += held_out
    rng.shuffle(train)
    return train, evaluation


def build(folder: Path) -> None:
    """Write every dataset file."""
    for name in DOMAINS:
        train, evaluation = domain_examples(name)
        write_jsonl(folder / f"{name}.train.jsonl", train)
        write_jsonl(folder / f"{name}.eval.jsonl", evaluation)
    train, evaluation = mixed.examples()
    write_jsonl(folder / "mixed.train.jsonl", train)
    write_jsonl(folder / "mixed.eval.jsonl", evaluation)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
