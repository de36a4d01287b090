"""Changing a mixture after training: add, drop, reorder, rename experts; change the gating.

The scaling head's weights for the experts that stay are kept: its last layer has a row of weights for each
layer and expert. Each function returns a new model on the same base; the old one cannot be used any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid, EngineError
from xlora_engine.model import XLoraModel
from xlora_engine.saved.saved_model import SavedModel
from xlora_engine.sources.adapter_weights import Expert, read_expert
from xlora_engine.sources.hub import local_folder

#: How far below the mean of the others a new expert's gate logit starts: its share is at most e^-5, one
#: part in 150, divided by the number of the others.
LOWERED_BY = 5.0

#: Fields of a configuration that say how the head's logits are used, not what its tensors are.
CHANGEABLE = frozenset(
    {
        "enable_softmax",
        "enable_softmax_topk",
        "global_scaling_weight",
        "scaling_pass_value",
        "softmax_temperature",
        "top_k_lora",
        "use_trainable_adapters",
        "xlora_dropout_p",
    }
)


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which layer and expert each row of a head's last layer is for: layer by layer, expert by expert."""

    #: A single one, of any name, if scalings are not layerwise.
    layers: tuple[str, ...]
    experts: tuple[str, ...]

    @classmethod
    def of(cls, layers: Sequence[str], config: XLoraConfig) -> "Outputs":
        """The outputs of a head over these wrapped layers."""
        return cls(layers=tuple(layers) if config.layerwise_scalings else ("",), experts=config.adapters)


def edited_rows(
    rows: Float[Tensor, "outputs *width"], before: Outputs, after: Outputs, *, shift: float | None
) -> Float[Tensor, "edited_outputs *width"]:
    """Rows for other experts and layers, those of experts and layers that stay untouched.

    A new layer's rows are the mean of all layers'. A new expert's are the mean of the others' plus
    `shift`, so that its logit follows theirs for any hidden state; or 0 where `shift` is None.
    """
    table = rows.unflatten(0, (len(before.layers), len(before.experts)))
    by_layer = dict(zip(before.layers, table, strict=True))
    edited = []
    for layer in after.layers:
        known = by_layer.get(layer, table.mean(0))
        new = torch.zeros_like(known[0]) if shift is None else known.mean(0) + shift
        by_expert = dict(zip(before.experts, known, strict=True))
        edited += [by_expert.get(name, new) for name in after.experts]
    return torch.stack(edited)


def add_expert(
    model: XLoraModel, name: str, folder: str | Path, *, lowered_by: float = LOWERED_BY
) -> XLoraModel:
    """Add an adapter, a folder or a repository on the hub, as the last expert, with a small share at first.

    Under a softmax its share starts at most at `exp(-lowered_by)` over the number of the other experts,
    whatever the hidden state, since its logit is their mean less `lowered_by` times the temperature. A
    head without bias gets one, of zeros for the others. Raw logits start at 0. If the scaling pass value is
    not 0, the new expert is active in that pass like all others, which changes the hidden states.

    Raises:
        ExpertInvalid: the adapter cannot be used, or does not fit; the model is left as it was.
        ConfigInvalid: the name is taken, or not allowed for an expert.
    """
    expert = read_expert(local_folder(folder), name)
    config = replace(model.config, adapters=(*model.config.adapters, name))
    if not (config.enable_softmax or config.enable_softmax_topk):
        return _edited(model, [*_current(model), expert], config, shift=None)
    config = replace(config, use_bias=True)
    return _edited(
        model, [*_current(model), expert], config, shift=-lowered_by * model.config.softmax_temperature
    )


def drop_experts(model: XLoraModel, *names: str) -> XLoraModel:
    """Remove experts; the softmax divides their share among the others, and top k is lowered to their number.

    Raises:
        ConfigInvalid: there is no such expert, or no expert would remain.
    """
    _require_known(model, names)
    kept = tuple(name for name in model.config.adapters if name not in names)
    if not kept:
        raise ConfigInvalid("names", "fewer than all experts", names)
    return _chosen(model, kept)


def reorder_experts(model: XLoraModel, names: Sequence[str]) -> XLoraModel:
    """Put the experts in another order.

    Raises:
        ConfigInvalid: the names are not those of the experts, once each.
    """
    if sorted(names) != sorted(model.config.adapters):
        raise ConfigInvalid("names", f"all of {model.config.adapters}, once each", tuple(names))
    return _chosen(model, tuple(names))


def rename_experts(model: XLoraModel, names: Mapping[str, str]) -> XLoraModel:
    """Rename experts; the results stay the same.

    Raises:
        ConfigInvalid: there is no such expert, or a new name is taken or not allowed.
    """
    _require_known(model, tuple(names))
    experts = [replace(expert, name=names.get(expert.name, expert.name)) for expert in _current(model)]
    config = replace(model.config, adapters=tuple(expert.name for expert in experts))
    return _rebuilt(
        model, experts, config, dict(model.head.state_dict()), Outputs.of(tuple(model.layers), config)
    )


def configure(model: XLoraModel, **fields: Any) -> XLoraModel:
    """Change fields of the configuration that leave the head's tensors as they are, such as `top_k_lora`.

    Raises:
        ConfigInvalid: a field decides the head's shape, is unknown, or is out of range.
    """
    for name, value in fields.items():
        if name not in CHANGEABLE:
            raise ConfigInvalid("fields", f"some of {', '.join(sorted(CHANGEABLE))}", {name: value})
    config = replace(model.config, **fields)
    return _edited(model, _current(model), config, shift=None)


def _chosen(model: XLoraModel, names: tuple[str, ...]) -> XLoraModel:
    by_name = {expert.name: expert for expert in _current(model)}
    top_k = model.config.top_k_lora
    config = replace(
        model.config, adapters=names, top_k_lora=None if top_k is None else min(top_k, len(names))
    )
    return _edited(model, [by_name[name] for name in names], config, shift=None)


def _edited(
    model: XLoraModel, experts: Sequence[Expert], config: XLoraConfig, *, shift: float | None
) -> XLoraModel:
    before = Outputs.of(tuple(model.layers), model.config)
    return _rebuilt(model, experts, config, _with_bias(model, config), before, shift=shift)


def _rebuilt(
    model: XLoraModel,
    experts: Sequence[Expert],
    config: XLoraConfig,
    head: dict[str, Tensor],
    before: Outputs,
    *,
    shift: float | None = None,
) -> XLoraModel:
    """A model of these experts on the same base, with the rows of its head's last layer adapted."""
    base = model.unload()
    try:
        edited = XLoraModel(base, experts, config)
    except EngineError:
        model.rewrap()
        raise
    after = Outputs.of(tuple(edited.layers), config)
    last = f"layers.{config.xlora_depth - 1}"
    weight_shift = None if shift is None else 0.0
    for key, by in ((f"{last}.weight", weight_shift), (f"{last}.bias", shift)):
        if key in head:
            head[key] = edited_rows(head[key], before, after, shift=by)
    SavedModel(config=config, experts=tuple(experts), head=head).restore(edited, verify=False)
    edited.checkpoint_like(model)
    return edited.train(model.training)


def _with_bias(model: XLoraModel, config: XLoraConfig) -> dict[str, Tensor]:
    """The head's weights, with biases of zeros if it had none and is to have some."""
    head = {}
    for key, tensor in model.head.state_dict().items():
        head[key] = tensor
        if config.use_bias and not model.config.use_bias:
            head[key.replace("weight", "bias")] = torch.zeros_like(tensor[:, 0])
    return head


def _current(model: XLoraModel) -> tuple[Expert, ...]:
    """The experts with their trained weights."""
    return SavedModel.of(model).experts


def _require_known(model: XLoraModel, names: Sequence[str]) -> None:
    for name in names:
        if name not in model.config.adapters:
            raise ConfigInvalid("names", f"experts of {model.config.adapters}", name)
