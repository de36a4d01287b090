"""A pickle becomes safetensors with the same tensors, in a process of its own, and runs nothing."""

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from registry.errors import InvalidAdapter, WeightsInvalid
from tests.pico import pico_adapter
from tests.registry.staged import read_adapter
from workers.conversion.adapters import convert_adapter
from workers.conversion.unpickling import _arrays, _is_archive_of_arrays, _reason, _tensors

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"


class Canary:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def pickled(folder: Path, extra: Mapping[str, Any] | None = None, *, name: str = PICKLED) -> str:
    """Put a pickle in place of a folder's weights; the digest of those."""
    digest = read_adapter(folder).weights_digest
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save({**tensors, **(extra or {})}, folder / name)
    return digest


@pytest.mark.processes
@pytest.mark.parametrize("name", [PICKLED, WEIGHTS], ids=["pickle", "pickle under another name"])
def test_a_pickle_becomes_what_it_was(tmp_path: Path, name: str) -> None:
    folder = pico_adapter(tmp_path / "old", seed=1, dtype=torch.bfloat16)
    (folder / "LICENSE").write_text("mine")
    digest = pickled(folder, name=name)
    converted = convert_adapter(folder, tmp_path / "new")
    assert converted.manifest.weights_digest == digest == read_adapter(tmp_path / "new").weights_digest
    assert converted.isolated
    assert (tmp_path / "new" / "LICENSE").read_text() == "mine"


@pytest.mark.processes
def test_a_pickle_that_asks_for_code_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickled(pico_adapter(tmp_path / "old", seed=1), {"x": Canary(canary)})
    with pytest.raises(
        WeightsInvalid, match=r"old/adapter_model.bin cannot .* it asks for posix.mkdir, which"
    ):
        convert_adapter(tmp_path / "old", tmp_path / "new")
    assert not canary.exists()
    assert not (tmp_path / "new").exists()


def test_without_a_pickle_no_process_is_needed(tmp_path: Path) -> None:
    folder = pico_adapter(tmp_path / "old", seed=1)
    converted = convert_adapter(folder, tmp_path / "new")
    assert converted.isolated == ()
    assert read_adapter(tmp_path / "new").weights_digest == read_adapter(folder).weights_digest


def test_all_else_that_is_wrong_is_refused_before_a_pickle_is_read(tmp_path: Path) -> None:
    pickled(pico_adapter(tmp_path / "old", seed=1))
    config = tmp_path / "old" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    with pytest.raises(InvalidAdapter, match="use_dora"):
        convert_adapter(tmp_path / "old", tmp_path / "new")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "it holds a list"),
        ({}, "it holds a dict"),
        ({"a": torch.ones(1), "b": 3}, "'b' is a int"),
        (torch.ones(2), "it holds a Tensor"),
    ],
)
def test_what_is_no_tensors_by_name_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "x")
    with (tmp_path / "x").open("rb") as file, pytest.raises(ValueError, match=words):
        _tensors(file)


def test_tensors_inside_a_training_state_are_found(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"a": torch.ones(1)}}, tmp_path / "x")
    with (tmp_path / "x").open("rb") as file:
        assert list(_tensors(file)) == ["a"]


def test_arrays_of_numpy_are_read_and_objects_among_them_refused(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"x.lora_a": np.eye(2, dtype=np.float32)}
    np.savez(tmp_path / "good.npz", **arrays)
    with (tmp_path / "good.npz").open("rb") as file:
        assert _is_archive_of_arrays(file)
        assert torch.equal(_arrays(file)["x.lora_a"], torch.eye(2))
    np.savez(tmp_path / "bad.npz", x=np.array([Canary(tmp_path / "canary")], dtype=object))
    with (tmp_path / "bad.npz").open("rb") as file, pytest.raises(ValueError, match="allow_pickle"):
        _arrays(file)
    assert not (tmp_path / "canary").exists()


def test_a_reason_is_one_line_without_advice_to_load_it_all_the_same() -> None:
    error = pickle.UnpicklingError("Weights only load failed.\nRe-run.\n GLOBAL posix.system is blocked")
    assert _reason(error) == "it asks for posix.system, which is no tensor and could run code"
    assert _reason(ValueError("a\nb")) == "ValueError: a"
