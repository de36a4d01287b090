"""`zoo register base` proves a base model by its skeleton, and says what is none."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from registry.errors import InvalidBase
from registry.service import Registry
from tests.pico import pico_base_folder
from tests.registry.listed import listed
from workers.requests.base_models import register_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pico_base_folder(tmp_path / "base")


def test_a_base_model_is_registered_with_the_modules_of_the_loaded_model(
    registry: Registry, folder: Path
) -> None:
    base = register_base(registry, folder, name="pico")
    assert base.modules["model.layers.1.mlp.up_proj"] == (64, 32)
    assert base.modules["lm_head"] == (259, 32)
    assert base.warnings == ()


def test_code_of_its_own_is_left_out_where_transformers_has_the_model(
    registry: Registry, folder: Path
) -> None:
    config = folder / "config.json"
    auto_map = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": auto_map}))
    (folder / "modeling_own.py").write_text("raise SystemExit")
    base = register_base(registry, folder, name="pico")
    assert base.warnings == ("left out, because it could run code when it is loaded: modeling_own.py",)
    assert "modeling_own.py" not in {file.path for file in base.files}


def test_a_missing_weight_is_said_at_registration_and_nothing_is_kept(
    registry: Registry, folder: Path
) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(InvalidBase, match=rf"{folder} lacks 1 of the model's weights, 'model\.norm\.weight'"):
        register_base(registry, folder, name="pico")
    assert listed(registry.bases) == []
