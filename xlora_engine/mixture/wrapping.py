"""The base model's layers that experts adapt, replaced by mixture layers that hold them."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel

from xlora_engine.config import XLoraConfig
from xlora_engine.errors import BaseUnsupported
from xlora_engine.mixture.layer import MixtureEmbedding, MixtureLayer, expert_dtype, share_inputs
from xlora_engine.mixture.scaling_context import ScalingContext
from xlora_engine.sources.adapter_weights import Expert


def wrap(
    base: PreTrainedModel, experts: Sequence[Expert], config: XLoraConfig, context: ScalingContext
) -> dict[str, MixtureLayer]:
    """Replace every layer that an expert adapts; keys in module order, which numbers the layers."""
    adapted = [path for path, _ in base.named_modules() if any(path in e.updates for e in experts)]
    layers: dict[str, MixtureLayer] = {}
    for number, path in enumerate(adapted):
        updates = {i: e.updates[path] for i, e in enumerate(experts) if path in e.updates}
        target = base.get_submodule(path)
        kind = MixtureEmbedding if next(iter(updates.values())).is_embedding else MixtureLayer
        device = next(target.parameters(), torch.empty(0, device=base.device)).device
        layers[path] = kind(
            target,
            updates,
            layer=number,
            experts=len(experts),
            context=context,
            global_weight=config.global_scaling_weight,
            dtype=expert_dtype(base.dtype, device),
            device=device,
        )
    share_inputs(layers)
    for path, layer in layers.items():
        replace_module(base, path, layer)
    return layers


def require_plain(base: nn.Module) -> None:
    """Refuse a base model that contains adapters already: they would act in both passes.

    Raises:
        BaseUnsupported: it belongs to another mixture, or PEFT has put adapters into it.
    """
    for path, module in base.named_modules():
        if isinstance(module, MixtureLayer) or type(module).__module__.startswith("peft."):
            raise BaseUnsupported(
                f"{path or 'the base model'!r} is a {type(module).__name__} of another model with adapters, "
                "which would act too; call that model's unload() first, or load the base model again"
            )


def presence(layers: Mapping[str, MixtureLayer], config: XLoraConfig) -> Bool[Tensor, "layer expert"] | None:
    """Which experts adapt each layer; None if the shares of absent ones are not renormalised."""
    if config.absent_experts == "drop":
        return None
    experts = range(len(config.adapters))
    present = torch.tensor([[i in layer.ranks for i in experts] for layer in layers.values()])
    return None if present.all() else present


def replace_module(base: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the submodule at `path`."""
    parent, _, name = path.rpartition(".")
    setattr(base.get_submodule(parent), name, module)
