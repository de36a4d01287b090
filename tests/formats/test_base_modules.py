"""Paths of a loaded model's modules, from the names in its files."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn

from formats.base_modules import BaseModule, adaptable_modules
from tests.wrapped_bases import WRAPPED_BASES

SHAPE = (4, 4)


def paths(*names: str, architecture: str) -> list[str]:
    return list(adaptable_modules(dict.fromkeys(names, SHAPE), architecture))


@pytest.mark.parametrize(
    ("architecture", "name", "path"),
    [
        ("GPT2LMHeadModel", "h.0.attn.c_attn", "transformer.h.0.attn.c_attn"),
        ("GPT2LMHeadModel", "transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_attn"),
        ("GPT2Model", "h.0.attn.c_attn", "transformer.h.0.attn.c_attn"),
        ("BloomForCausalLM", "word_embeddings", "transformer.word_embeddings"),
        ("OPTForCausalLM", "decoder.layers.0.fc1", "model.decoder.layers.0.fc1"),
        ("LlamaForCausalLM", "layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("GPTNeoXForCausalLM", "embed_out", "lm_head"),
        ("MixtralForCausalLM", "model.x.block_sparse_moe.up", "model.x.mlp.up"),
    ],
)
def test_a_module_has_the_path_of_the_loaded_model(architecture: str, name: str, path: str) -> None:
    assert paths(name, architecture=architecture) == [path]


def test_the_head_is_outside_the_decoder_whose_prefix_files_leave_out() -> None:
    found = paths("h.0.attn.c_attn", "lm_head", architecture="GPT2LMHeadModel")
    assert found == ["transformer.h.0.attn.c_attn", "lm_head"]


def test_what_no_adapter_can_change_is_left_out() -> None:
    names = ("model.x.mlp.experts.0.w1", "model.x.mlp.gate", "model.decoder.embed_positions")
    assert paths("model.y.mlp.gate", *names, architecture="LlamaForCausalLM") == ["model.y.mlp.gate"]


def test_an_embedding_maps_from_its_vocabulary() -> None:
    found = adaptable_modules({"model.embed_tokens": (100, 8), "lm_head": (100, 8)}, "LlamaForCausalLM")
    assert found["model.embed_tokens"] == BaseModule(d_in=100, d_out=8, is_embedding=True)
    assert found["lm_head"] == BaseModule(d_in=8, d_out=100, is_embedding=False)


@pytest.mark.parametrize("family", WRAPPED_BASES)
def test_modules_of_a_model_that_reads_pictures_are_named_as_transformers_names_them(
    family: str, tmp_path: Path
) -> None:
    model = WRAPPED_BASES[family].build()
    model.save_pretrained(tmp_path)
    in_files = {
        key.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for key, tensor in load_file(tmp_path / "model.safetensors").items()
        if tensor.dim() == 2 and key.endswith(".weight")
    }
    found = adaptable_modules(in_files, type(model).__name__)
    loaded = {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    loaded.pop("lm_head")  # tied, in some of them
    assert {path: (m.d_out, m.d_in) for path, m in found.items() if path in loaded} == loaded
    again = adaptable_modules(dict.fromkeys(found, SHAPE), type(model).__name__)
    assert again.keys() == found.keys(), "names of a loaded model stay as they are"
