"""Base models, adapters, datasets and compositions as folders on disk, small and seeded, without torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from registry.entities import StoredMethod

HIDDEN = 8
VOCABULARY = 32

#: The method that the compositions written here are made by.
XLORA = StoredMethod(
    name="xlora",
    files=("head.safetensors", "probe.safetensors", "xlora.json"),
    details={"head": "sha256:00", "config": {"xlora_depth": 1}},
)
LAYERS = 2

#: Module path -> (d_out, d_in) of the linear layers of a base model folder.
PROJECTIONS = {
    f"model.layers.{layer}.self_attn.{projection}": (HIDDEN, HIDDEN)
    for layer in range(LAYERS)
    for projection in ("q_proj", "v_proj")
}


def write_base(folder: Path, *, seed: int = 0, hidden: int = HIDDEN) -> Path:
    """A Llama-like base model; another seed is another base model of the same shape."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens": (VOCABULARY, hidden),
        **dict.fromkeys(PROJECTIONS, (hidden, hidden)),
    }
    tensors = {
        f"{path}.weight": random.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"vocab": {}}}))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def write_adapter(folder: Path, *, seed: int = 0, rank: int = 2, hidden: int = HIDDEN, **config: Any) -> Path:
    """A LoRA adapter of every projection; `config` overrides fields of adapter_config.json."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for path in PROJECTIONS:
        shapes = {"lora_A": (rank, hidden), "lora_B": (hidden, rank)}
        for factor, shape in shapes.items():
            values = random.standard_normal(shape).astype(np.float32)
            tensors[f"base_model.model.{path}.{factor}.weight"] = values
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    stated = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    return folder


def write_dataset(file: Path, *, examples: int = 3, topic: str = "cells") -> Path:
    """Chat examples about a topic."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        {
            "messages": [
                {"role": "user", "content": f"question {number} about {topic}?"},
                {"role": "assistant", "content": f"answer {number}"},
            ]
        }
        for number in range(examples)
    )
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def write_composition(folder: Path, experts: Sequence[str], *, seed: int = 0) -> Path:
    """A saved composition with an own copy of each expert."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    head = {"layers.0.weight": random.standard_normal((len(experts), HIDDEN)).astype(np.float32)}
    save_file(head, folder / "head.safetensors")
    save_file({"input_ids": np.arange(4)}, folder / "probe.safetensors")
    (folder / "xlora.json").write_text(json.dumps({"format": "adapter-zoo/xlora"}))
    for place, name in enumerate(experts):
        write_adapter(folder / "experts" / name, seed=place)
    return folder
