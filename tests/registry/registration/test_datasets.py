"""Datasets: named after their files, counted, and refused by line number."""

from pathlib import Path

import pytest

from registry.errors import InvalidDataset, InvalidField, InvalidName
from registry.service import Registry
from tests.registry.folders import write_dataset
from tests.registry.listed import listed

#: What is tested here runs no SQL of its own.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_name_domain_and_split_come_from_the_file_name(registry: Registry, tmp_path: Path) -> None:
    dataset = registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl", examples=5))
    assert (dataset.reference, dataset.domain, dataset.split) == ("bio.train@1", "bio", "train")
    assert (dataset.examples, dataset.format, dataset.origin) == (5, "chat", "file:bio.train.jsonl")
    assert registry.datasets.get("bio.train") == dataset
    assert listed(registry.datasets) == [dataset.reference]


def test_what_is_said_goes_before_what_the_name_says(registry: Registry, tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "bio.train.jsonl")
    dataset = registry.datasets.register(
        file, name="cells", domain="biology", split="eval", licence="CC-BY-4.0", origin="https://example.org"
    )
    assert (dataset.name, dataset.domain, dataset.split) == ("cells", "biology", "eval")
    assert (dataset.licence, dataset.origin) == ("CC-BY-4.0", "https://example.org")


def test_a_file_name_that_says_nothing_leaves_domain_and_split_open(
    registry: Registry, tmp_path: Path
) -> None:
    dataset = registry.datasets.register(write_dataset(tmp_path / "chats.jsonl"))
    assert (dataset.name, dataset.domain, dataset.split) == ("chats", None, None)


def test_equal_bytes_are_the_version_that_is_there_and_others_the_next(
    registry: Registry, tmp_path: Path
) -> None:
    first = registry.datasets.register(write_dataset(tmp_path / "bio.train.jsonl"))
    again = registry.datasets.register(write_dataset(tmp_path / "copy" / "bio.train.jsonl"))
    second = registry.datasets.register(write_dataset(tmp_path / "new" / "bio.train.jsonl", examples=4))
    assert again == first
    assert second.reference == "bio.train@2"


def test_an_example_that_is_no_chat_is_named_by_its_line(registry: Registry, tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "bio.train.jsonl", examples=2)
    file.write_text(file.read_text() + "{}\n")
    with pytest.raises(InvalidDataset, match="line 3") as refusal:
        registry.datasets.register(file)
    assert refusal.value.line == 3
    assert listed(registry.datasets) == []


def test_names_and_splits_out_of_range_are_refused(registry: Registry, tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "bio.train.jsonl")
    with pytest.raises(InvalidField, match="split must be 'train' or 'eval'"):
        registry.datasets.register(file, split="test")
    with pytest.raises(InvalidName, match="domain"):
        registry.datasets.register(file, domain="a b")
    with pytest.raises(InvalidName, match="dataset"):
        registry.datasets.register(write_dataset(tmp_path / "a b.jsonl"))
