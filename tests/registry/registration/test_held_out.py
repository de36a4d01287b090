"""A validation split is drawn by a seed, loses nothing, and shares nothing with what is trained on."""

from pathlib import Path

import pytest

from formats.chat_examples import ChatExample
from formats.near_duplicates import overlap
from registry.errors import InvalidDataset, InvalidField
from registry.registration.held_out import drawn_apart
from registry.service import Registry
from tests.registry.folders import write_dataset

#: What is tested here runs no SQL of its own.
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@ON_SQLITE
def test_a_file_becomes_two_datasets_that_are_all_of_it(registry: Registry, tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "bio.jsonl", examples=20)
    training, held_out = registry.datasets.hold_out(file, share=0.2, seed=3, domain="biology")
    assert [one.reference for one in (training, held_out)] == ["bio.train@1", "bio.eval@1"]
    assert [one.split for one in (training, held_out)] == ["train", "eval"]
    assert [one.domain for one in (training, held_out)] == ["biology", "biology"]
    assert (training.examples, held_out.examples) == (16, 4)
    assert held_out.reading == {"hold_out": 0.2, "seed": 3}
    parts = [registry.materialise(one) / one.files[0].path for one in (training, held_out)]
    lines = sorted(b"".join(path.read_bytes() for path in parts).splitlines())
    assert len(lines) == 20 == len(set(lines))
    again = registry.datasets.hold_out(file, share=0.2, seed=3, domain="biology")
    assert again == (training, held_out)
    assert registry.datasets.hold_out(file, share=0.2, seed=4)[1].digest != held_out.digest


def test_what_is_nearly_trained_on_is_not_held_out() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    texts = [*(f"text {n} of its own {n * n}" for n in range(20)), *(f"{long} {n}" for n in range(20))]
    examples = [ChatExample(text=text) for text in texts]
    for seed in range(5):
        training, held_out = drawn_apart(examples, share=0.5, seed=seed)
        assert not overlap(training, held_out).shared
        assert len(training) + len(held_out) == 40
        assert len({one.text in texts[20:] for one in held_out}) == 1 or held_out == []


@ON_SQLITE
def test_what_cannot_be_split_is_refused(registry: Registry, tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "bio.jsonl", examples=1)
    with pytest.raises(InvalidDataset, match="1 examples are too few"):
        registry.datasets.hold_out(file, share=0.5)
    with pytest.raises(InvalidField, match="a share between 0 and 1"):
        registry.datasets.hold_out(file, share=1.0)
