"""Adapters of pico_llama as other programs write them, and what each adds to a weight by its own formula."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

#: Module -> (d_in, d_out).
SHAPES = {
    f"model.layers.{layer}.{name}": shape
    for layer in (0, 1)
    for name, shape in (("self_attn.q_proj", (32, 32)), ("mlp.down_proj", (64, 32)))
}
RANK = 3
Updates = Mapping[str, Tensor]


def _factors(dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> (A [rank d_in], B [d_out rank])."""
    draw = torch.Generator().manual_seed(5)
    return {
        path: (
            (torch.randn(RANK, d_in, generator=draw) * 0.3).to(dtype),
            (torch.randn(d_out, RANK, generator=draw) * 0.3).to(dtype),
        )
        for path, (d_in, d_out) in SHAPES.items()
    }


def write_mlx(folder: Path, *, dtype: torch.dtype = torch.float32, **config: Any) -> Updates:
    """As mlx-lm saves: `y + scale * (x @ lora_a) @ lora_b`; a field that is `...` is left out."""
    folder.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    updates, scale = {}, 3.3
    for path, (a, b) in _factors(dtype).items():
        tensors |= {f"{path}.lora_a": a.T.contiguous(), f"{path}.lora_b": b.T.contiguous()}
        updates[path] = (scale * b.float()) @ a.float()
    save_file(tensors, folder / "adapters.safetensors")
    stated = {
        "fine_tune_type": "lora",
        "lora_parameters": {"rank": RANK, "scale": scale, "dropout": 0.0},
        "model": "acme/poems-4bit",
        "num_layers": 2,
    }
    stated = {name: value for name, value in (stated | config).items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    return updates


def write_kohya(file: Path, *, prefix: str = "lora_te", alpha: float | None = 2.0) -> Updates:
    """As sd-scripts saves: `W + up @ down * alpha / rank`, alpha the rank where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    updates = {}
    for path, (a, b) in _factors(torch.float32).items():
        name = f"{prefix}_{path.removeprefix('model.').replace('.', '_')}"
        # Each module has its own alpha.
        own = None if alpha is None else alpha + len(path)
        tensors |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
        if own is not None:
            tensors[f"{name}.alpha"] = torch.tensor(own)
        updates[path] = (b @ a) * ((own or RANK) / RANK)
    save_file(tensors, file, metadata={"ss_network_module": "networks.lora"})
    return updates


def write_adapterhub(folder: Path, **config: Any) -> Updates:
    """As the library `adapters` saves: `W + lora_B @ lora_A * alpha / r`."""
    folder.mkdir(parents=True)
    tensors: dict[str, Tensor] = {}
    updates = {}
    for path, (a, b) in _factors(torch.float32).items():
        tensors |= {f"{path}.loras.poems.lora_A": a, f"{path}.loras.poems.lora_B": b}
        updates[path] = (b @ a) * (7 / RANK)
    save_file(tensors, folder / "adapter.safetensors")
    stated = {"architecture": "lora", "r": RANK, "alpha": 7, "composition_mode": "add", "use_gating": False}
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"config": stated | config, "model_type": "llama", "name": "poems", "version": "adapters.1.3.0"}
        )
    )
    return updates
