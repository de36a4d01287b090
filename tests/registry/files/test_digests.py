"""Digests of files and of weights: what they depend on, and what not."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.errors import ArtifactMissing, InvalidDataset, WeightsInvalid
from registry.files.digests import file_digest
from tests.registry.raw_safetensors import tensor, write_raw
from tests.registry.staged import digest_of_weights

A = np.arange(600_000, dtype=np.float32)  # longer than what is read at once
B = np.ones((2, 3), dtype=np.float16)


def test_a_file_is_digested_as_sha256sum_does(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 700_000)
    expected = hashlib.sha256(b"abc" * 700_000).hexdigest()
    assert file_digest(path) == (f"sha256:{expected}", 2_100_000)


def test_a_missing_file_is_refused_as_the_caller_says(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match="No such file"):
        file_digest(tmp_path / "x")
    with pytest.raises(InvalidDataset, match="No such file"):
        file_digest(tmp_path / "x", refusal=InvalidDataset)


def test_metadata_does_not_enter(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    save_file({"a": A, "b": B}, one, metadata={"format": "pt"})
    save_file({"a": A, "b": B}, two, metadata={"author": "somebody", "date": "today"})
    assert one.read_bytes() != two.read_bytes()
    assert digest_of_weights(one) == digest_of_weights(two)


def test_sharding_does_not_enter(tmp_path: Path) -> None:
    whole, first, second = tmp_path / "whole", tmp_path / "first", tmp_path / "second"
    save_file({"a": A, "b": B}, whole)
    save_file({"a": A}, first)
    save_file({"b": B}, second)
    assert digest_of_weights(whole) == digest_of_weights(first, second) == digest_of_weights(second, first)


def test_the_order_in_the_file_does_not_enter(tmp_path: Path) -> None:
    one = write_raw(tmp_path / "one", {"a": tensor([1], 0, 4), "b": tensor([1], 4, 8)}, b"aaaabbbb")
    two = write_raw(tmp_path / "two", {"b": tensor([1], 0, 4), "a": tensor([1], 4, 8)}, b"bbbbaaaa")
    assert digest_of_weights(one) == digest_of_weights(two)


@pytest.mark.parametrize(
    "other",
    [
        {"a": A + 1, "b": B},
        {"a": A, "c": B},
        {"a": A, "b": B.reshape(3, 2)},
        {"a": A, "b": B.view(np.int16)},
        {"a": A},
        {"a": A, "b": B, "c": B},
    ],
    ids=["value", "name", "shape", "dtype", "fewer", "more"],
)
def test_everything_else_enters(
    tmp_path: Path, other: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
) -> None:
    save_file({"a": A, "b": B}, tmp_path / "one")
    save_file(other, tmp_path / "two")
    assert digest_of_weights(tmp_path / "one") != digest_of_weights(tmp_path / "two")


def test_a_byte_cannot_move_from_one_tensor_to_the_next(tmp_path: Path) -> None:
    one = write_raw(tmp_path / "one", {"a": tensor([3], 0, 3, "U8"), "b": tensor([1], 3, 4, "U8")}, b"xyzw")
    two = write_raw(tmp_path / "two", {"a": tensor([1], 0, 1, "U8"), "b": tensor([3], 1, 4, "U8")}, b"xyzw")
    assert digest_of_weights(one) != digest_of_weights(two)


def test_the_digest_of_given_weights_never_changes(tmp_path: Path) -> None:
    """Digests are kept for years: another algorithm would make every record a stranger."""
    path = write_raw(tmp_path / "x", {"w": tensor([1, 2], 0, 8)}, b"12345678")
    content = hashlib.sha256(b"12345678").hexdigest()
    line = f'["w", "F32", [1, 2], "{content}"]\n'
    assert digest_of_weights(path) == f"sha256:{hashlib.sha256(line.encode()).hexdigest()}"


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "one")
    save_file({"a": A}, tmp_path / "two")
    with pytest.raises(WeightsInvalid, match="'a' is in another file too"):
        digest_of_weights(tmp_path / "one", tmp_path / "two")
