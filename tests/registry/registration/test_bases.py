"""Base models: identity is what they hold, and a name is that of one of them only."""

from pathlib import Path

import pytest

from registry.entities import BaseModel
from registry.errors import InvalidBase, InvalidField, InvalidName, NameTaken
from registry.service import Registry
from tests.registry.folders import PROJECTIONS, write_base
from tests.registry.listed import listed


def test_everything_is_read_from_the_files(registry: Registry, pico: BaseModel) -> None:
    assert (pico.architecture, pico.hidden_size, pico.layer_count) == ("LlamaForCausalLM", 8, 2)
    assert pico.vocabulary_size == 32
    assert pico.dtype == "float32"
    assert PROJECTIONS.items() <= pico.modules.items()
    assert (pico.name, pico.reference, pico.source) == ("pico", "pico", "hub:zoo/pico@abc")
    assert {file.path for file in pico.files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert registry.bases.get("pico") == pico
    assert registry.bases.get(pico.digest) == pico


def test_the_same_base_model_again_is_the_one_that_is_there(
    registry: Registry, pico: BaseModel, tmp_path: Path
) -> None:
    again = registry.bases.register(write_base(tmp_path / "again"), name="pico", source="file:elsewhere")
    assert again == pico
    assert listed(registry.bases) == [pico.reference]


def test_a_name_cannot_be_of_two_base_models(registry: Registry, pico: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(NameTaken, match="another --name"):
        registry.bases.register(write_base(tmp_path / "other", seed=1), name="pico", source="file:other")
    assert listed(registry.bases) == [pico.reference]


def test_a_base_model_cannot_have_two_names(registry: Registry, pico: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(NameTaken, match="zoo bases show pico"):
        registry.bases.register(write_base(tmp_path / "again"), name="piccolo", source="file:again")


def test_an_invalid_base_model_leaves_no_record(registry: Registry, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InvalidBase):
        registry.bases.register(folder, name="broken", source="file:broken")
    assert listed(registry.bases) == []


def test_names_and_sources_are_checked_before_any_file_is_read(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        registry.bases.register(tmp_path / "none", name="../x", source="file:x")
    with pytest.raises(InvalidField, match="source"):
        registry.bases.register(tmp_path / "none", name="x", source="a\nb")
