"""Adapters that mlx-lm trains and saves, and the logits it has with them. Run by its own Python."""

# Other environments hold what it imports. mypy reads the next line.
# mypy: ignore-errors

import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model, save_config
from tokens import TOKENS

#: Name -> (keys, scale, rank, layers, dtype).
VARIANTS: dict[str, tuple[list[str] | None, float, int, int, Any]] = {
    "mlx-attention": (["self_attn.q_proj", "self_attn.v_proj"], 20.0, 4, 2, None),
    "mlx-all": (None, 3.3, 7, 2, None),
    "mlx-last-layer": (["mlp.down_proj", "self_attn.k_proj"], 10.0, 8, 1, None),
    "mlx-bfloat16": (["self_attn.q_proj", "self_attn.o_proj"], 2.0, 4, 2, mx.bfloat16),
}
STEPS = 8


def make(folder: Path, name: str) -> None:
    """Train, save and load again one adapter."""
    keys, scale, rank, layers, dtype = VARIANTS[name]
    tokens = mx.array(TOKENS)
    model, _ = load_model(folder / "base", strict=False)
    model.freeze()
    parameters = {"rank": rank, "scale": scale, "dropout": 0.0} | ({"keys": keys} if keys else {})
    linear_to_lora_layers(model, layers, parameters)

    def loss(adapted: Any) -> Any:
        return nn.losses.cross_entropy(adapted(tokens)[:, :-1], tokens[:, 1:]).mean()

    optimizer = optimizers.Adam(learning_rate=0.02)
    gradient = nn.value_and_grad(model, loss)
    for _ in range(STEPS):
        optimizer.update(model, gradient(model)[1])
        mx.eval(model.parameters(), optimizer.state)
    weights = dict(tree_flatten(model.trainable_parameters()))
    if dtype is not None:
        weights = {key: value.astype(dtype) for key, value in weights.items()}
    target = folder / name
    target.mkdir()
    mx.save_safetensors(str(target / "adapters.safetensors"), weights)
    stated = {"model": "pico", "fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
    save_config(stated, target / "adapter_config.json")
    again, _ = load_model(folder / "base", strict=False)
    load_adapters(again, str(target))
    again.eval()
    np.save(folder / f"{name}.npy", np.array(again(tokens).astype(mx.float32)))


if __name__ == "__main__":
    mx.random.seed(0)
    for variant in VARIANTS:
        make(Path(sys.argv[1]), variant)
