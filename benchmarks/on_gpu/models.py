"""Base models with random weights, made on the device from configurations, and experts for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen3MoeConfig

from benchmarks.on_gpu.parts import Setting
from benchmarks.subject import Subject
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel
from xlora_engine.sources.adapter_weights import Expert, LowRank, write_expert

RANK = 16

#: Of B: so small that base and mixture mostly agree on the next token, as they do with trained experts.
_EFFECT = 2e-3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A configuration of a base model, full size and as small as shows that it runs."""

    make: Callable[..., Any]
    full: Mapping[str, int]
    small: Mapping[str, int]


_SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL |= {"num_key_value_heads": 2, "vocab_size": 512}


def _llama(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> Shape:
    full = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    full |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary}
    return Shape(make=LlamaConfig, full=full, small=_SMALL)


#: Name -> shape; the sizes are those of SmolLM2-135M, Llama 3.2 1B and Llama 3.1 8B.
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "135M": _llama(576, 1536, 30, 9, 3, 49_152),
        "1B": _llama(2048, 8192, 16, 32, 8, 128_256),
        "8B": _llama(4096, 14_336, 32, 32, 8, 128_256),
        "MoE": Shape(
            make=Qwen3MoeConfig,
            full={
                "hidden_size": 1024,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 16,
                "num_key_value_heads": 4,
                "vocab_size": 32_000,
                "num_experts": 16,
                "num_experts_per_tok": 4,
                "moe_intermediate_size": 512,
                "head_dim": 64,
            },
            small={
                **_SMALL,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "head_dim": 16,
            },
        ),
    }
)


def random_base(name: str, setting: Setting) -> PreTrainedModel:
    """A base model of that shape with random weights, on the device, in the dtype of the device."""
    shape = SHAPES[name]
    config = shape.make(
        **(shape.small if setting.quick else shape.full),
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with setting.device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=setting.dtype)
    model.eval()
    return model


def random_experts(base: PreTrainedModel, count: int, setting: Setting) -> tuple[Expert, ...]:
    """Experts of every linear layer of attention and of dense feed-forward parts."""
    linear = {
        path: (module.out_features, module.in_features)
        for path, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in path and path.endswith("_proj")
    }
    return tuple(_expert(f"expert{number}", linear, setting) for number in range(count))


def _expert(name: str, linear: Mapping[str, tuple[int, int]], setting: Setting) -> Expert:
    def drawn(rows: int, columns: int, size: float) -> torch.Tensor:
        # float32: what PEFT reads from a file is float32 too, unless it was trained otherwise.
        return torch.randn(rows, columns, device=setting.device) * size

    updates = {
        path: LowRank(
            A=drawn(RANK, d_in, d_in**-0.5), B=drawn(d_out, RANK, _EFFECT), scale=2.0, is_embedding=False
        )
        for path, (d_out, d_in) in linear.items()
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "bias": "none",
        "target_modules": sorted({path.rpartition(".")[2] for path in updates}),
    }
    return Expert(name=name, config=config, updates=updates)


HEAD = XLoraConfig(layerwise_scalings=True, xlora_depth=2, xlora_size=256)


def composed(base: PreTrainedModel, experts: tuple[Expert, ...]) -> XLoraModel:
    """The engine's model over a base model, which is wrapped in place; undo it with `unload`."""
    return XLoraModel(base, experts, HEAD, seed=0).eval()


def on_disk(model: XLoraModel, folder: Path) -> Subject:
    """The folders that the other contenders load: experts as PEFT reads them, and the saved model."""
    folders = {}
    for expert in model.experts:
        folders[expert.name] = folder / expert.name
        write_expert(folders[expert.name], expert, expert.updates)
    model.save_pretrained(folder / "composition")
    return Subject(base=folder, experts=folders, composition=folder / "composition")
