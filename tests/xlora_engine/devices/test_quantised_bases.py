"""Quantised bases are called as they are: a mixture is that of the dequantised weights, gradients too."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from tests.pico import pico_adapter, pico_llama
from tests.xlora_engine.slow_reference import slow_logits
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ExpertMismatch
from xlora_engine.model import XLoraModel
from xlora_engine.sources.adapter_weights import read_expert
from xlora_engine.sources.expert_fit import check_fits

ROOT = Path(__file__).parents[3]
#: Where `make` puts them, and why: PEFT imports them wherever they are installed, a second a process.
BITSANDBYTES = Path(sys.prefix) / "bitsandbytes"
TORCHAO = Path(sys.prefix) / "torchao"

CONFIG = XLoraConfig(layerwise_scalings=True, xlora_dropout_p=0.0, scaling_pass_value=0.3)


@pytest.fixture(autouse=True, scope="module")
def _torchao_on_the_path() -> Iterator[None]:
    assert TORCHAO.is_dir(), f"{TORCHAO} is missing; `make .venv/.apart` installs it"
    sys.path.append(str(TORCHAO))
    yield
    sys.path.remove(str(TORCHAO))


def int8_llama(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A pico Llama, every linear layer of which holds 8-bit weights."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    base = pico_llama()
    nn.Module.to(base, dtype)
    quantize_(base, Int8WeightOnlyConfig())
    return base


def dequantised_llama() -> LlamaForCausalLM:
    """The same weights, rounded to 8 bits, as plain float32 ones."""
    base = pico_llama()
    for path, layer in int8_llama().named_modules():
        if isinstance(layer, nn.Linear):
            base.get_submodule(path).weight.data = layer.weight.dequantize()
    return base


def gradients(model: XLoraModel, token_ids: Tensor) -> dict[str, Tensor]:
    model.train()
    model(token_ids, labels=token_ids).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.eval()
    return found


def test_the_mixture_on_an_int8_base_is_that_of_the_slow_loop(
    expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = XLoraModel.from_adapters(int8_llama(), expert_folders, CONFIG)
    base = int8_llama()

    with torch.no_grad():
        logits, plain = model(token_ids).logits, base(token_ids).logits
        cache = model.new_cache()
        parts = [model(part, cache=cache, use_cache=True).logits for part in token_ids.split([5, 3, 1], 1)]
        with model.disabled():
            assert torch.equal(model(token_ids).logits, plain)
    slow, _ = slow_logits(base, list(expert_folders.values()), model.head, model.config, token_ids)

    torch.testing.assert_close(logits, slow, rtol=0, atol=2e-5)
    torch.testing.assert_close(torch.cat(parts, 1), logits, rtol=0, atol=2e-5)
    assert (logits - plain).abs().max() > 0.1, "the experts must have an effect"
    assert (plain - pico_llama()(token_ids).logits).abs().max() > 0.01, "the base must be quantised"


@pytest.mark.parametrize("experts_train", [False, True], ids=["head", "head and experts"])
def test_gradients_pass_an_int8_base_as_they_pass_its_dequantised_weights(
    experts_train: bool, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    config = XLoraConfig(layerwise_scalings=True, xlora_dropout_p=0.0, use_trainable_adapters=experts_train)
    plain = XLoraModel.from_adapters(dequantised_llama(), expert_folders, config)
    expected = gradients(plain, token_ids)

    for settings in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        model = XLoraModel.from_adapters(int8_llama(), expert_folders, config)
        if settings is not None:
            model.gradient_checkpointing_enable(settings)
        found = gradients(model, token_ids)

        assert found.keys() == expected.keys() != set()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_a_bfloat16_int8_base_has_float32_experts_and_generates_with_its_cache(
    expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = XLoraModel.from_adapters(int8_llama(torch.bfloat16), expert_folders, CONFIG)
    asked: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}

    assert {layer.down.weight.dtype for layer in model.layers.values()} == {torch.float32}
    assert model(token_ids).logits.dtype == torch.bfloat16
    assert model.generate(token_ids, **asked).shape == (2, token_ids.shape[1] + 4)
    exact = XLoraModel.from_adapters(dequantised_llama(), expert_folders, CONFIG)
    with torch.no_grad():
        difference = (model(token_ids).logits.float() - exact(token_ids).logits).abs()
    assert difference.mean() < 0.05  # of logits of size 10, in 8 bits


def test_a_mixture_on_an_int8_base_is_saved_and_loaded_on_one(
    expert_folders: dict[str, Path], token_ids: Tensor, tmp_path: Path
) -> None:
    model = XLoraModel.from_adapters(int8_llama(), expert_folders, CONFIG)
    model.save_pretrained(tmp_path / "saved")

    loaded = XLoraModel.from_pretrained(tmp_path / "saved", int8_llama())

    assert torch.equal(loaded(token_ids).logits, model(token_ids).logits)
    assert all(layer.weight.__class__.__name__ == "Int8Tensor" for layer in [loaded.unload().lm_head])


def test_an_expert_of_another_width_is_refused_on_an_int8_base_too(tmp_path: Path) -> None:
    wide = pico_adapter(tmp_path / "wide", seed=0, base=pico_llama(hidden_size=64))

    with pytest.raises(ExpertMismatch, match=r"maps 64 to 64 at '.*q_proj', where the base maps 32 to 32"):
        check_fits(read_expert(wide, "wide"), int8_llama())


@pytest.mark.processes
def test_a_mixture_on_a_four_bit_bitsandbytes_base_is_that_of_dequantised_weights(
    tmp_path: Path,
) -> None:
    """In a process of its own, with bitsandbytes on its path."""
    assert BITSANDBYTES.is_dir(), f"{BITSANDBYTES} is missing; `make .venv/.apart` installs it"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(BITSANDBYTES)])}
    script = Path(__file__).with_name("check_four_bit_base.py")

    subprocess.run([sys.executable, script, tmp_path], check=True, env=environment)
