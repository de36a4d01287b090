"""Run as a program: a mixture on a 4-bit base of bitsandbytes is that of its dequantised weights.

python check_four_bit_base.py EMPTY_FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from tests.pico import pico_adapter, pico_llama
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import BaseUnsupported
from xlora_engine.model import XLoraModel

#: Blocks of 64 values share a scale.
WIDTHS = {"hidden_size": 64, "intermediate_size": 128}


def four_bit(folder: Path) -> LlamaForCausalLM:
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    base = LlamaForCausalLM.from_pretrained(folder, quantization_config=settings, device_map="cpu")
    base.train(False)
    assert isinstance(base.model.layers[0].self_attn.q_proj, bitsandbytes.nn.Linear4bit)
    return base


def dequantised(folder: Path) -> LlamaForCausalLM:
    base = pico_llama(**WIDTHS)
    for path, layer in four_bit(folder).named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            base.get_submodule(path).weight.data = weight.float()
    return base


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Float32 either way: products come in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=3e-5)


def gradients(model: XLoraModel, token_ids: Tensor) -> list[Tensor]:
    model.train()
    model(token_ids, labels=token_ids).loss.backward()
    model.eval()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def check(root: Path) -> None:
    pico_llama(**WIDTHS).save_pretrained(root / "base")
    adapters = {
        "a": pico_adapter(root / "a", seed=1, base=pico_llama(**WIDTHS)),
        "b": pico_adapter(
            root / "b", seed=2, base=pico_llama(**WIDTHS), target_modules=("q_proj", "up_proj")
        ),
    }
    config = XLoraConfig(layerwise_scalings=True, xlora_dropout_p=0.0, use_trainable_adapters=True)
    token_ids = torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(0))
    model = XLoraModel.from_adapters(four_bit(root / "base"), adapters, config)
    exact = XLoraModel.from_adapters(dequantised(root / "base"), adapters, config)

    for _ in range(2):  # evaluating in between does not spoil training
        with torch.no_grad():
            assert_close(model(token_ids).logits, exact(token_ids).logits)
            with model.disabled(), exact.disabled():
                assert_close(model(token_ids).logits, exact(token_ids).logits)
        found, expected = gradients(model, token_ids), gradients(exact, token_ids)
        assert len(found) == len(expected) > 2
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours, theirs)
    asked: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(token_ids, **asked), exact.generate(token_ids, **asked))

    model.save_pretrained(root / "saved")
    XLoraModel.from_pretrained(root / "saved", four_bit(root / "base"))
    check_refusal(root, adapters, token_ids)


@torch.no_grad()
def check_refusal(root: Path, adapters: dict[str, Path], token_ids: Tensor) -> None:
    """A base that bitsandbytes packed before, as it does on some CPUs, can answer but not train."""
    base = four_bit(root / "base")
    base(token_ids)
    packed = getattr(base.model.layers[0].mlp.up_proj.weight.quant_state, "packing_format_for_cpu", False)
    model = XLoraModel.from_adapters(base, adapters)
    try:
        model.train()
    except BaseUnsupported:
        assert packed
    else:
        assert not packed
    assert isinstance(model.unload(), nn.Module)
    assert not any(module.training for module in base.modules())


if __name__ == "__main__":
    torch.set_num_threads(1)
    check(Path(sys.argv[1]))
