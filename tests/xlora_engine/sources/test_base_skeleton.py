"""A base model is proven by its configuration and the names of its weights, without reading one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from tests.pico import pico_base_folder
from tests.small_bases import SMALL_BASES
from xlora_engine.errors import BaseUnreadable, BaseUnsupported
from xlora_engine.sources.base_model import load_base
from xlora_engine.sources.base_skeleton import Skeleton, read_skeleton

WEIGHTS = "model.safetensors"
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}


def shapes(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (_NAMES[t.dtype], tuple(t.shape)) for name, t in load_file(folder / WEIGHTS).items()}


def skeleton(folder: Path, **changed: Any) -> Skeleton:
    """Of the folder's configuration alone: its weights are gone when it is built."""
    names = {**shapes(folder), **changed}
    (folder / WEIGHTS).unlink()
    return read_skeleton(folder, names, called=Path("mine"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico_base_folder(tmp_path_factory.mktemp("saved") / "base")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "base"))


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("name", SMALL_BASES)
def test_its_modules_are_those_of_the_loaded_model(name: str, tmp_path: Path) -> None:
    SMALL_BASES[name].build().save_pretrained(tmp_path)
    loaded = load_base(tmp_path, dtype=torch.float32, device=torch.device("cpu"))
    modules = {
        path: tuple(module.weight.shape)
        for path, module in loaded.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") or isinstance(module, torch.nn.Embedding)
    }

    found = skeleton(tmp_path)

    assert found.architecture == type(loaded).__name__ == SMALL_BASES[name].model
    assert found.warnings == ()
    assert {path: sorted(shape) for path, shape in found.modules.items()} == {
        path: sorted(shape) for path, shape in modules.items()
    }


def test_a_conv1d_layer_is_output_by_input(tmp_path: Path) -> None:
    SMALL_BASES["GPT-2"].build().save_pretrained(tmp_path)
    assert skeleton(tmp_path).modules["transformer.h.0.attn.c_attn"] == (48, 16)


def test_a_class_that_no_test_covers_is_said(tmp_path: Path) -> None:
    from transformers import StableLmConfig, StableLmForCausalLM

    fields = SMALL_BASES["Llama"].fields
    StableLmForCausalLM(StableLmConfig(vocab_size=64, **fields)).save_pretrained(tmp_path)
    (warning,) = skeleton(tmp_path).warnings
    assert "StableLmForCausalLM is not among" in warning


def test_a_missing_weight_is_named(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(BaseUnreadable, match=r"^mine lacks 1 of .* 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        skeleton(folder)


def test_a_weight_that_the_configuration_leaves_out_is_named(folder: Path) -> None:
    change(folder, num_hidden_layers=1)
    with pytest.raises(BaseUnreadable, match=r"^mine holds 'model\.layers\.1\.\S+', which no layer takes"):
        skeleton(folder)


def test_a_value_head_beside_the_decoder_is_none_of_its_weights(folder: Path) -> None:
    assert skeleton(folder, **{"v_head.summary.weight": ("F32", (1, 32))}).warnings == ()


def test_an_embedding_of_another_vocabulary_is_refused(folder: Path) -> None:
    change(folder, vocab_size=300)
    with pytest.raises(BaseUnreadable, match=r"cannot be made of mine.*mismatch"):
        skeleton(folder)


def test_a_quantised_weight_is_refused(folder: Path) -> None:
    with pytest.raises(BaseUnreadable, match="is F8_E4M3: a quantised weight"):
        skeleton(folder, **{"lm_head.weight": ("F8_E4M3", (259, 32))})


_ENCODER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
_BOTH: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
NO_BASES: dict[str, tuple[Callable[[], Any], str]] = {
    "encoder": (
        lambda: BertForMaskedLM(BertConfig(vocab_size=64, **_ENCODER)),
        "BertForMaskedLM is an encoder",
    ),
    "encoder-decoder": (
        lambda: T5ForConditionalGeneration(T5Config(vocab_size=64, **_BOTH)),
        "T5ForConditionalGeneration is an encoder-decoder",
    ),
}


@pytest.mark.parametrize("what", NO_BASES)
def test_what_is_no_causal_language_model_is_refused_as_what_it_is(what: str, tmp_path: Path) -> None:
    made, reason = NO_BASES[what]
    made().save_pretrained(tmp_path)
    with pytest.raises(BaseUnsupported, match=reason):
        skeleton(tmp_path)


def test_a_model_of_pictures_has_no_class_that_writes(folder: Path) -> None:
    change(folder, architectures=["CLIPModel"], model_type="clip")
    with pytest.raises(BaseUnsupported, match=r"^CLIPModel is no causal language model: transformers"):
        skeleton(folder)


def test_an_unknown_architecture_is_named_and_no_other(folder: Path) -> None:
    change(folder, architectures=["OwnForCausalLM"], model_type="own")
    with pytest.raises(BaseUnsupported, match="knows no model of type 'own'") as refused:
        skeleton(folder)
    assert len(str(refused.value)) < 200


def test_code_of_its_own_is_refused_where_transformers_lacks_the_class(folder: Path) -> None:
    code = {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    names = shapes(folder)
    change(folder, auto_map=code)
    assert read_skeleton(folder, names, called=folder).architecture == "LlamaForCausalLM"
    for fields in ({"architectures": ["OwnForCausalLM"]}, {"model_type": "own"}):
        change(folder, **fields)
        with pytest.raises(BaseUnsupported, match="code that comes with the model"):
            read_skeleton(folder, names, called=folder)
