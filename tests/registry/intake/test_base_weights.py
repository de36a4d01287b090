"""Weights are told by their headers, and refused before they are copied."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from registry.errors import InvalidBase
from registry.files.safetensors_file import TensorEntry
from registry.files.staging import Staging
from registry.intake.base_files import stage_base
from registry.intake.base_weights import SINGLE_FILE, ProvenBase
from tests.registry.folders import write_base
from tests.registry.staged import read_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("model.", "base_model.model.model.", "PEFT's adapters in it"),
        ("model.", "_orig_mod.model.", "a compiled model"),
        ("model.layers", "model._orig_mod.layers", "a compiled model"),
        ("model.", "module.model.", "DataParallel or DeepSpeed"),
        ("self_attn.", "_fsdp_wrapped_module.self_attn.", "a model in FSDP"),
    ],
)
def test_names_of_a_wrapped_model_are_refused(before: str, after: str, said: str, folder: Path) -> None:
    file = folder / SINGLE_FILE
    save_file({name.replace(before, after, 1): tensor for name, tensor in load_file(file).items()}, file)
    with pytest.raises(InvalidBase, match=said):
        read_base(folder)


def test_more_layers_than_tensors_are_refused_before_a_loader_builds_them(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 2000000'))
    with pytest.raises(InvalidBase, match="says 2000000 layers, and the weights hold 5 tensors"):
        read_base(folder)


def test_weights_are_copied_once_they_are_proven(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()
    staging = Staging(tmp_path / "staged")
    asked: list[tuple[bool, set[str]]] = []

    def prove(copies: Path, weights: tuple[TensorEntry, ...]) -> ProvenBase:
        asked.append(((copies / SINGLE_FILE).exists(), {entry.name for entry in weights}))
        return ProvenBase(modules={"model.embed_tokens": (32, 8)}, warnings=("careful",))

    manifest = stage_base(folder, staging, prove=prove)

    assert asked == [(False, set(load_file(folder / SINGLE_FILE)))]
    assert manifest.modules == {"model.embed_tokens": (32, 8)}
    assert manifest.warnings == ("careful",)


def test_what_is_refused_is_not_copied(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()

    def refuse(*_: object) -> ProvenBase:
        raise InvalidBase("no")

    with pytest.raises(InvalidBase, match="no"):
        stage_base(folder, Staging(tmp_path / "staged"), prove=refuse)
    assert not (tmp_path / "staged" / SINGLE_FILE).exists()


def test_a_pickle_alone_is_said_to_be_one(folder: Path) -> None:
    (folder / SINGLE_FILE).rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidBase, match=r"pytorch_model\.bin is a pickle.* with save_pretrained"):
        read_base(folder)
