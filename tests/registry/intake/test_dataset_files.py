"""A dataset's file: its examples are counted, its domains collected, its name read."""

import os
from pathlib import Path

import pytest

from registry.errors import InvalidDataset
from registry.intake.dataset_files import parse_file_name
from tests.registry.staged import read_dataset

GOOD = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'
OTHER = GOOD.replace(b'"q"', b'"p"')


def in_domain(domain: bytes) -> bytes:
    return GOOD[:-1] + b', "domain": "' + domain + b'"}'


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_examples_are_counted_and_domains_collected(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", in_domain(b"physics"), in_domain(b"bio"), GOOD)
    manifest = read_dataset(path)
    assert (manifest.examples, manifest.domains, manifest.warnings) == (3, ("bio", "physics"), ())


def test_examples_that_repeat_are_warned_of_however_they_are_written(tmp_path: Path) -> None:
    spaced = GOOD.replace(b": ", b":  ")
    path = written(tmp_path / "x.jsonl", GOOD, OTHER, GOOD, spaced, in_domain(b"bio"))
    assert read_dataset(path).warnings == ("2 of 5 examples repeat an earlier one",)


def test_a_bad_example_is_refused_by_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", GOOD, b"{}")
    with pytest.raises(InvalidDataset, match=r"x\.jsonl, line 2: examples with nothing, which") as caught:
        read_dataset(path)
    assert caught.value.line == 2


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="is empty; a dataset has at least one example") as caught:
        read_dataset(written(tmp_path / "x.jsonl"))
    assert caught.value.line is None


@pytest.mark.parametrize("kind", ["nothing", "link", "pipe", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.jsonl"
    if kind == "link":
        path.symlink_to(written(tmp_path / "real", GOOD))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(InvalidDataset, match=r"x\.jsonl"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("name", "domain", "split"),
    [
        ("bio.train.jsonl", "bio", "train"),
        ("bio.eval.jsonl", "bio", "eval"),
        ("materials-2.v1.train.jsonl", "materials-2.v1", "train"),
        ("bio.jsonl", None, None),
        ("train.jsonl", None, None),
        ("bio.test.jsonl", None, None),
        ("bio.train.json", "bio", "train"),
        ("bio.eval.csv.gz", "bio", "eval"),
        ("bio.train.doc", None, None),
        (".train.jsonl", None, None),
        ("../bio.train.jsonl", None, None),
        ("bio.train.jsonl\n", None, None),
    ],
)
def test_a_file_s_name_may_contain_domain_and_split(name: str, domain: str | None, split: str | None) -> None:
    assert parse_file_name(name) == (domain, split)
