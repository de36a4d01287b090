"""The example datasets are what their card says: reproducible, held out cleanly, joined in `mixed` alone."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from examples.build import DOMAINS, build, domain_examples
from examples.chat_example import normalise
from examples.materials import metals
from examples.mixed import halves
from tests.registry.staged import read_dataset

FOLDER = Path(__file__).parents[2] / "examples"
FILES = sorted(FOLDER.glob("*.jsonl"))


def examples(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def question(example: dict[str, Any]) -> str:
    return normalise(example["messages"][1]["content"])


def answer(example: dict[str, Any]) -> str:
    return str(example["messages"][2]["content"])


def test_rebuilding_gives_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path)
    assert FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in FILES]
    for path in FILES:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_example_is_a_chat_that_the_registry_accepts(path: Path) -> None:
    assert read_dataset(path).domains == (path.name.partition(".")[0],)


def test_no_evaluation_question_is_in_training() -> None:
    files = [path.name for path in FILES if ".train." in path.name]
    assert len(files) == len(DOMAINS) + 1
    trained = {question(example) for name in files for example in examples(name)}
    asked = {question(example) for path in FILES if ".eval." in path.name for example in examples(path.name)}
    assert asked
    assert not trained & asked


@pytest.mark.parametrize("task", ["compound", "atoms", "formula"])
def test_training_asks_of_every_metal_about_as_often(task: str) -> None:
    symbols = {metal.symbol for metal in metals() if metal.cations}
    train, _ = domain_examples("materials")
    asked = Counter(
        next(
            symbol for symbol in re.findall("[A-Z][a-z]?(?=[A-Z0-9])", example.question) if symbol in symbols
        )
        for example in train
        if example.task == task
    )
    assert set(asked) == symbols
    assert max(asked.values()) - min(asked.values()) <= 1


def test_only_mixed_questions_join_halves_of_two_domains() -> None:
    firsts = {normalise(fact.subject): domain for domain, half in halves().items() for fact in half.first}
    seconds = {normalise(fact.subject): domain for domain, half in halves().items() for fact in half.second}

    def joined(example: dict[str, Any]) -> tuple[str | None, str | None]:
        first, _, second = question(example).partition("; ")
        return firsts.get(first), seconds.get(second)

    mixed = [joined(example) for split in ("train", "eval") for example in examples(f"mixed.{split}.jsonl")]
    assert all(first and second and first != second for first, second in mixed)
    assert len({question(example) for example in examples("mixed.train.jsonl")}) == 240
    for domain in DOMAINS:
        for example in examples(f"{domain}.train.jsonl"):
            first, second = joined(example)
            assert first == second or None in (first, second)


def test_answers_are_short() -> None:
    longest = max(len(answer(example)) for path in FILES for example in examples(path.name))
    assert longest <= 40


def test_the_card_counts_what_the_builder_makes() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    stated = {
        (domain, task): (int(train), int(held_out))
        for domain, task, train, held_out in re.findall(
            r"^\| (\w+) \| ([\w ]+) \| (\d+) \| (\d+) \|", card, flags=re.MULTILINE
        )
    }
    for domain in DOMAINS:
        train, held_out = domain_examples(domain)
        for task in {example.task for example in train}:
            counts = (
                sum(example.task == task for example in train),
                sum(example.task == task for example in held_out),
            )
            assert stated[domain, task] == counts
