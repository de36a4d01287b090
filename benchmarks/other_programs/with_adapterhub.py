"""LoRA of the library `adapters` as it saves it, and the logits it has there."""

# Other environments hold what it imports. mypy reads the next line.
# mypy: ignore-errors

import sys
from pathlib import Path

import adapters
import numpy as np
import torch
from adapters import LoRAConfig
from tokens import TOKENS
from transformers import AutoModelForCausalLM

VARIANTS = {
    "adapterhub-attention": LoRAConfig(r=4, alpha=6, attn_matrices=["q", "v"]),
    "adapterhub-all": LoRAConfig(
        r=3, alpha=9, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True
    ),
}


def make(folder: Path, name: str) -> None:
    """Add an adapter, draw its factors, save it and ask."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    adapters.init(model)
    model.add_adapter(name, config=VARIANTS[name])
    model.set_active_adapters(name)
    for key, parameter in model.named_parameters():
        if f"loras.{name}." in key:
            parameter.data = torch.randn_like(parameter) * 0.2
    model.save_adapter(str(folder / name), name, use_safetensors=True)
    model.train(False)
    with torch.no_grad():
        np.save(folder / f"{name}.npy", model(torch.tensor(TOKENS)).logits.numpy())


if __name__ == "__main__":
    torch.manual_seed(0)
    for variant in VARIANTS:
        make(Path(sys.argv[1]), variant)
