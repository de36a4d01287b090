"""A dataset that a request names: on record already, or a file that is read once and then put there."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from registry.errors import DatasetFileNotFound, InvalidDataset
from registry.service import Registry
from tests.registry.folders import write_dataset
from workers.requests.datasets import given_dataset


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "bio.train.jsonl", examples=3)


def copies(registry: Registry) -> list[Path]:
    root = Path(registry.settings.artifact_root)
    return [path for path in (root / ".incoming").rglob("*") if path.is_file()]


def test_a_file_is_read_once_from_its_check_to_its_record(
    registry: Registry, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[str] = Counter()
    opening = os.open

    def counting(path: Any, *rest: Any, **options: Any) -> int:
        opened[str(path)] += 1
        return opening(path, *rest, **options)

    monkeypatch.setattr(os, "open", counting)
    dataset = given_dataset(registry, str(file)).register(registry)
    assert (dataset.reference, dataset.domain, dataset.examples) == ("bio.train@1", "bio", 3)
    assert opened[str(file)] == 1


def test_a_file_swapped_after_its_check_is_not_registered(registry: Registry, file: Path) -> None:
    honest = file.read_bytes()
    given = given_dataset(registry, str(file))
    file.write_text("no example\n")
    stored = registry.materialise(given.register(registry)) / file.name
    assert stored.read_bytes() == honest


def test_what_is_not_registered_leaves_nothing_behind(registry: Registry, file: Path) -> None:
    given = given_dataset(registry, str(file))
    assert len(copies(registry)) == 1
    del given
    assert copies(registry) == []
    assert registry.datasets.list() == []


def test_a_bad_example_is_refused_when_the_file_is_looked_up(registry: Registry, file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"{}\n")
    with pytest.raises(InvalidDataset, match=r"bio\.train\.jsonl, line 4: examples with nothing"):
        given_dataset(registry, str(file))
    assert copies(registry) == []


def test_a_dataset_on_record_is_found_by_its_reference(registry: Registry, file: Path) -> None:
    dataset = registry.datasets.register(file)
    given = given_dataset(registry, "bio.train@1")
    assert (given.name, given.domain, given.register(registry)) == ("bio.train", "bio", dataset)


def test_a_file_that_is_not_there_is_named_with_those_beside_it(registry: Registry, file: Path) -> None:
    with pytest.raises(DatasetFileNotFound, match=r"did you mean bio\.train\.jsonl\?"):
        given_dataset(registry, str(file.with_name("bio.trian.jsonl")))
