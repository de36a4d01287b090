"""Hidden states in a file: those of memory, whole or not at all."""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.xlora_engine.conftest import Mixture
from xlora_engine.data.chat import EncodedExample
from xlora_engine.errors import SavedFileUnreadable
from xlora_engine.head_training.hidden_states import HiddenStates, compute_hidden_states

#: Of several lengths, so that batches are not in the examples' order, and with a beginning that all share.
EXAMPLES = [
    EncodedExample(token_ids=(1, 2, *range(9, 9 + length)), prompt_length=2) for length in (7, 2, 5, 1, 6)
]

Compute = Callable[..., HiddenStates]


@pytest.fixture
def compute(mixture: Mixture) -> Compute:
    model = mixture()

    def computed(into: Path | None, *, on_examples: Callable[[int], None] = lambda _: None) -> HiddenStates:
        return compute_hidden_states(
            model.scaling_pass,
            EXAMPLES,
            new_cache=lambda: model.new_cache().scaling,
            pad_id=0,
            tokens_per_batch=16,
            device=torch.device("cpu"),
            into=into,
            on_examples=on_examples,
        )

    return computed


def same(one: HiddenStates, other: HiddenStates) -> bool:
    return torch.equal(one.values, other.values) and torch.equal(one.starts, other.starts)


def test_those_of_a_file_are_those_of_memory(compute: Compute, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "states.safetensors"
    written = compute(path)
    assert same(written, compute(None))
    assert same(HiddenStates.load(path), written)
    assert [len(written.of(index)) for index in range(len(EXAMPLES))] == [
        len(example.token_ids) for example in EXAMPLES
    ]
    assert list(path.parent.iterdir()) == [path]


def test_a_file_of_before_stays_until_the_new_one_is_whole(compute: Compute, tmp_path: Path) -> None:
    path = tmp_path / "states.safetensors"
    path.write_bytes(b"before")

    def fail(_: int) -> None:
        assert path.read_bytes() == b"before"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(path, on_examples=fail)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_before_anything_is_written(
    compute: Compute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        compute(tmp_path / "states.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_two_that_compute_the_same_do_not_write_into_each_others_file(
    compute: Compute, tmp_path: Path
) -> None:
    path = tmp_path / "states.safetensors"
    found: list[HiddenStates] = []

    def meanwhile(_: int) -> None:
        if not found:
            found.append(compute(path))

    outer = compute(path, on_examples=meanwhile)
    assert same(outer, found[0])
    assert same(outer, compute(None))


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(
    compute: Compute, tmp_path: Path
) -> None:
    left, new, held = (tmp_path / f"a.{number}.partial" for number in range(3))
    for path in (left, new, held):
        path.touch()
    for path in (left, held):
        os.utime(path, (time.time() - 60, time.time() - 60))
    with held.open("r+b") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        compute(tmp_path / "states.safetensors")
    assert not left.exists()
    assert new.exists()
    assert held.exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-10], lambda content: b"\xff" * len(content)])
def test_a_damaged_file_is_refused(
    compute: Compute, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "states.safetensors"
    compute(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SavedFileUnreadable, match="delete it"):
        HiddenStates.load(path)


def test_sequences_are_padded_on_the_left_after_the_shared_prefix(compute: Compute) -> None:
    states = compute(None)
    batch = states.left_padded([3, 0], after=2)
    assert batch.shape[:2] == (2, 7)
    assert not batch[0, :6].any()
    torch.testing.assert_close(batch[0, 6:], states.of(3)[2:].float(), rtol=0, atol=0)
    whole: Tensor = states.of(0)[2:].float()
    torch.testing.assert_close(batch[1], whole, rtol=0, atol=0)
