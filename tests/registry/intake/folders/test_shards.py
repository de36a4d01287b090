"""Adapters in parts, as transformers writes them, are the adapter that they are parts of."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from registry.errors import InvalidAdapter, PickleRefused
from registry.files.staging import Staging
from registry.intake.adapter_files import AdapterManifest, stage_adapter
from tests.pico import pico_llama

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
Spoil = Callable[[Path, list[Path]], object]


@pytest.fixture
def in_parts(tmp_path: Path) -> Path:
    """An adapter of PEFT, divided by the function that transformers divides with, files called as there."""
    model = get_peft_model(pico_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    model.save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "README.md").unlink()
    parts = tmp_path / "parts"
    parts.mkdir()
    shutil.copy(tmp_path / "whole" / "adapter_config.json", parts)
    tensors = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    split = split_torch_state_dict_into_shards(
        tensors, filename_pattern="adapter_model{suffix}.safetensors", max_shard_size="2KB"
    )
    for name, held in split.filename_to_tensors.items():
        save_file({key: tensors[key] for key in held}, parts / name)
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (parts / INDEX).write_text(json.dumps(index))
    return parts


def stage(folder: Path, stored: Path) -> AdapterManifest:
    stored.mkdir()
    return stage_adapter(folder, Staging(stored))


def test_parts_are_joined_to_what_one_file_holds(in_parts: Path, tmp_path: Path) -> None:
    assert len(list(in_parts.glob("adapter_model-*-of-*.safetensors"))) > 2
    manifest = stage(in_parts, tmp_path / "stored")
    whole = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    joined = load_file(tmp_path / "stored" / "adapter_model.safetensors")
    assert whole.keys() == joined.keys()
    assert all(torch.equal(whole[name], joined[name]) for name in whole)
    assert manifest.weights_digest == stage(tmp_path / "whole", tmp_path / "other").weights_digest
    assert manifest.files == ("adapter_config.json", "adapter_model.safetensors")
    assert manifest.warnings == ()


def test_an_index_is_not_needed(in_parts: Path, tmp_path: Path) -> None:
    (in_parts / INDEX).unlink()
    assert len(stage(in_parts, tmp_path / "stored").modules) == 6


def _index_of_another(folder: Path, _: list[Path]) -> None:
    stated = json.loads((folder / INDEX).read_text())
    stated["weight_map"]["another"] = "adapter_model-00001-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(stated))


def _held_twice(_: Path, parts: list[Path]) -> None:
    save_file({**load_file(parts[0]), **load_file(parts[1])}, parts[1])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _, parts: parts[1].unlink(), "part 2 is missing; fetch the folder again"),
        (_held_twice, "both hold 'base_model.model"),
        (_index_of_another, "does not tell where 'another' is"),
        (lambda folder, _: (folder / INDEX).write_text('{"weight_map": 3}'), "does not tell where"),
        (
            lambda _, parts: parts[0].write_bytes(POINTER),
            "Git LFS pointer",
        ),
    ],
    ids=["one missing", "held twice", "another's index", "a broken index", "a pointer"],
)
def test_parts_that_do_not_belong_together_are_refused(
    in_parts: Path, tmp_path: Path, spoil: Spoil, words: str
) -> None:
    spoil(in_parts, sorted(in_parts.glob("adapter_model-*")))
    with pytest.raises(InvalidAdapter) as refused:
        stage(in_parts, tmp_path / "stored")
    assert words in str(refused.value)


def test_pickled_parts_are_refused_with_the_way_out(in_parts: Path, tmp_path: Path) -> None:
    for part in in_parts.glob("adapter_model-*"):
        part.rename(part.with_suffix(".bin"))
    with pytest.raises(PickleRefused, match="safe_serialization=True"):
        stage(in_parts, tmp_path / "stored")
