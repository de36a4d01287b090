"""What the registry says fits a base model runs in the engine and has an effect; nothing else runs."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from registry.entities import BaseModel
from registry.errors import Incompatible
from registry.service import Registry
from tests.pico import pico_tokenizer
from tests.small_bases import SMALL_BASES
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import EngineError
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.sources.adapter_weights import read_expert


def write(folder: Path, path: str, a: tuple[int, int], b: tuple[int, int], *, is_embedding: bool) -> Path:
    """An adapter of one module."""
    folder.mkdir()
    endings = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A.weight", "lora_B.weight")
    tensors = {f"base_model.model.{path}.{e}": torch.ones(s) for e, s in zip(endings, (a, b), strict=True)}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": [path.rpartition(".")[2]]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def registers(registry: Registry, folder: Path, base: BaseModel) -> bool:
    try:
        registry.adapters.register(folder, name="a", base=base.name)
    except Incompatible:
        return False
    return True


@torch.no_grad()
def runs(folder: Path, model: PreTrainedModel) -> bool:
    """Whether a mixture takes the adapter, and it has an effect."""
    tokens = torch.tensor([[3, 4, 5]])
    without = model(tokens).logits
    try:
        mixture = Mixture(model, [read_expert(folder, "a")], XLoraConfig())
    except EngineError:
        return False
    try:
        with mixture.fixed_scalings(mixture.constant_scalings([1.0])):
            changed = not torch.allclose(mixture(tokens).logits, without)
    finally:
        mixture.unload()
    assert changed, "an adapter that is accepted has an effect"
    return True


def weighted(model: nn.Module) -> Mapping[str, tuple[int, int]]:
    return {
        path: (int(weight.shape[0]), int(weight.shape[1]))
        for path, module in model.named_modules()
        if isinstance(weight := getattr(module, "weight", None), torch.Tensor) and weight.dim() == 2
    }


def without_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items()}


Change = Callable[[dict[str, torch.Tensor], str], dict[str, torch.Tensor]]


def as_it_is(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return tensors


#: Those whose files name, leave out or fuse modules in ways of their own, and Llama for all others.
FAMILIES = ("Llama", "GPT-2", "GPT-NeoX", "OPT", "Bloom", "Gemma 3", "Mixtral", "Qwen3-MoE")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("saved", [as_it_is, without_prefix])
@pytest.mark.parametrize(
    "name", ["Llama", "GPT-2", "GPT-NeoX", "OPT", "Bloom", "Gemma 3", "Mixtral", "Qwen3-MoE"]
)
def test_registry_and_engine_agree_on_every_module(
    name: str, saved: Change, registry: Registry, tmp_path: Path
) -> None:
    """Of every module and every name in the files, as a linear layer and as an embedding."""
    made = SMALL_BASES[name].build()
    folder = tmp_path / "base"
    made.save_pretrained(folder)
    pico_tokenizer().save_pretrained(folder)
    file = folder / "model.safetensors"
    stored = load_file(file)
    save_file(saved(stored, made.base_model_prefix), file, metadata={"format": "pt"})
    base = registry.bases.register(folder, name="base", source="x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
    in_file = {k.removesuffix(".weight"): tuple(t.shape) for k, t in load_file(file).items() if t.dim() == 2}
    shapes: dict[str, Any] = {**in_file, **weighted(model)}
    seen = {}
    for index, (path, (first, second)) in enumerate(sorted(s for s in shapes.items() if ".1." not in s[0])):
        for turned in (False, True):
            d_out, d_in = (second, first) if turned else (first, second)
            for is_embedding in (False, True):
                adapter = write(
                    tmp_path / f"{index}{turned}{is_embedding}", path, (2, d_in), (d_out, 2),
                    is_embedding=is_embedding,
                )  # fmt: skip
                seen[path, turned, is_embedding] = (registers(registry, adapter, base), runs(adapter, model))
    disagreeing = {what: verdicts for what, verdicts in seen.items() if len(set(verdicts)) > 1}
    assert disagreeing == {}
    assert any(registered for registered, _ in seen.values())
