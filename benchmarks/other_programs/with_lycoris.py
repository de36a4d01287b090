"""A LoRA of every linear layer as LyCORIS saves it, under kohya's keys, and the logits it has there."""

# Other environments hold what it imports. mypy reads the next line.
# mypy: ignore-errors

import sys
from pathlib import Path

import numpy as np
import torch
from lycoris import LycorisNetwork, create_lycoris
from tokens import TOKENS
from transformers import AutoModelForCausalLM


def make(folder: Path, name: str, *, rank: int, alpha: float) -> None:
    """Wrap the base model, draw the factors, save them and ask."""
    LycorisNetwork.apply_preset({"target_module": ["LlamaAttention", "LlamaMLP"], "enable_conv": False})
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    network = create_lycoris(model, 1.0, linear_dim=rank, linear_alpha=alpha, algo="lora")
    network.apply_to()
    for parameter in network.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    network.save_weights(str(folder / f"{name}.safetensors"), torch.float32, {})
    with torch.no_grad():
        np.save(folder / f"{name}.npy", model(torch.tensor(TOKENS)).logits.numpy())


if __name__ == "__main__":
    torch.manual_seed(0)
    make(Path(sys.argv[1]), "lycoris", rank=5, alpha=3.0)
