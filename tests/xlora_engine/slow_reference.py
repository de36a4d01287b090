"""X-LoRA computed the slow and plain way: one expert, one layer, one token's gate at a time.

Shares no code with the engine: it reads adapter files by itself and adds to the base model by hooks.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from xlora_engine.config import XLoraConfig

#: What one expert adds at one module: input -> output.
Update = Callable[[Tensor], Tensor]


def read_updates(folder: Path) -> dict[str, Update]:
    """One adapter's updates by module path, scales included."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {k: t.float() for k, t in load_file(folder / "adapter_model.safetensors").items()}
    updates: dict[str, Update] = {}
    for key, A in tensors.items():
        plain = re.fullmatch(r"base_model\.model\.(.*)\.lora_(embedding_)?A(\.weight)?", key)
        if plain is None:
            continue
        path, embedding, _ = plain.groups()
        B = tensors[key.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
        rank = _looked_up(config.get("rank_pattern"), path, config["r"])
        alpha = _looked_up(config.get("alpha_pattern"), path, config["lora_alpha"])
        scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
        updates[path] = (_embedded if embedding else _multiplied)(A, B, scale)
    return updates


def _looked_up(pattern: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    found = [value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", path)]
    return found[0] if found else default


def _multiplied(A: Tensor, B: Tensor, scale: float) -> Update:
    return lambda x: scale * (x.to(torch.float64) @ A.T.double() @ B.T.double())


def _embedded(A: Tensor, B: Tensor, scale: float) -> Update:
    return lambda ids: scale * (A.T.double()[ids] @ B.T.double())


def layer_order(base: nn.Module, adapters: Sequence[Mapping[str, Update]]) -> list[str]:
    """Every module that an expert changes, in module order."""
    return [path for path, _ in base.named_modules() if any(path in updates for updates in adapters)]


@contextmanager
def experts_weighed(
    base: nn.Module, adapters: Sequence[Mapping[str, Update]], scalings: Tensor, global_weight: float
) -> Iterator[None]:
    """Inside, the base model's outputs hold the experts' too; `scalings` is [batch seq layer expert]."""
    order = layer_order(base, adapters)
    with ExitStack() as hooks:
        for number, path in enumerate(order):
            rows = scalings[:, :, number if scalings.shape[2] > 1 else 0]
            present = [(rows[..., i], u[path]) for i, u in enumerate(adapters) if path in u]
            module = base.get_submodule(path)
            handle = module.register_forward_hook(_adding(present, global_weight))
            hooks.callback(handle.remove)
        yield


def _adding(present: Sequence[tuple[Tensor, Update]], global_weight: float) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        total = output.double()
        for weights, update in present:
            added = update(inputs[0]) * getattr(module, "embed_scale", 1.0)
            total = total + global_weight * weights.double().reshape(*added.shape[:-1], 1) * added
        return total.to(output.dtype)

    return hook


def slow_gate(logits: Tensor, config: XLoraConfig, counted: Sequence[Sequence[int]]) -> Tensor:
    """Scalings of logits [batch seq layer expert], one token and layer at a time.

    `counted` holds, for each layer, the experts among which shares are dealt out; others get none.
    """
    out = torch.zeros_like(logits)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in logits.shape[:3])).tolist():
        among = list(counted[place[2]])
        row = logits[tuple(place)][among]
        if config.enable_softmax:
            row = (row / config.softmax_temperature).softmax(-1)
        kept = sorted(range(len(row)), key=lambda i, row=row: -row[i])[: config.top_k_lora]  # type: ignore[misc]
        values = row[kept]
        if config.enable_softmax_topk:
            values = (values / config.softmax_temperature).softmax(-1)
        out[tuple(place)][[among[i] for i in kept]] = values
    return out


def slow_logits(
    base: PreTrainedModel,
    folders: Sequence[Path],
    head: nn.Module,
    config: XLoraConfig,
    input_ids: Tensor,
    **inputs: Any,
) -> tuple[Tensor, Tensor]:
    """Logits and scalings of an X-LoRA model, from its parts; `base` is left as it was."""
    adapters = [read_updates(folder) for folder in folders]
    order = layer_order(base, adapters)
    layers = len(order) if config.layerwise_scalings else 1
    counted: list[Sequence[int]] = [range(len(folders))] * layers
    if config.absent_experts == "renormalise":
        counted = [[i for i, updates in enumerate(adapters) if path in updates] for path in order]
    constant = torch.full((*input_ids.shape, 1, len(folders)), config.scaling_pass_value)
    with torch.no_grad():
        with experts_weighed(base, adapters, constant, config.global_scaling_weight):
            out = base(input_ids=input_ids, output_hidden_states=True, use_cache=False, **inputs)
        hidden = out.hidden_states[-1].float()
        for number, layer in enumerate(m for m in head.modules() if isinstance(m, nn.Linear)):
            between = number > 0 and config.enable_relu_and_dropout
            hidden = layer(hidden.relu() if between else hidden)
        logits = hidden.reshape(*input_ids.shape, layers, len(folders))
        scalings = slow_gate(logits.expand(-1, -1, len(counted), -1), config, counted)
        with experts_weighed(base, adapters, scalings, config.global_scaling_weight):
            logits = base(input_ids=input_ids, use_cache=False, **inputs).logits
    return logits, scalings
