"""The scaling head: a small network from one token's hidden state to logits over the experts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xlora_engine.config import XLoraConfig
from xlora_engine.devices.full_precision import in_full_precision
from xlora_engine.mixture.gates import gate


class ScalingHead(nn.Module):
    """Maps hidden states to scalings (arXiv:2402.07148, "X-LoRA scaling head").

    Float32 whatever the base model's dtype, also when the model is cast to a shorter one: it has few
    parameters, and bfloat16 steps are too coarse to train it.

    Its linear maps are `layers.0`, `layers.1`, … whatever lies between them, so that the names of
    saved tensors do not depend on the dropout setting.
    """

    def __init__(
        self,
        config: XLoraConfig,
        *,
        layer_count: int,
        seed: int = 0,
        present: Bool[Tensor, "layer expert"] | None = None,
    ) -> None:
        """`present` says which experts adapt each layer, where the shares of absent ones are renormalised."""
        super().__init__()
        self.config = config
        self.register_buffer("present", present, persistent=False)
        self.present: Tensor | None
        self.layer_count = layer_count if config.layerwise_scalings else 1
        widths = [
            config.hidden_size,
            *[config.xlora_size] * (config.xlora_depth - 1),
            self.layer_count * len(config.adapters),
        ]
        # skip_init leaves the global random state alone; `_initialise` fills every value.
        self.layers = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, d_in, d_out, bias=config.use_bias, dtype=torch.float32)
            for d_in, d_out in pairwise(widths)
        )
        self.dropout = nn.Dropout(config.xlora_dropout_p)
        _initialise(self.layers, seed)

    def logits(self, hidden: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch seq layer expert"]:
        """Logits of every expert; the `layer` axis has length 1 unless scalings are layerwise."""
        own = next(self.parameters())
        # A base model spread over devices returns them on its last device; the head is on its first.
        out = hidden.to(device=own.device, dtype=own.dtype)
        for index, layer in enumerate(self.layers):
            between = index > 0 and self.config.enable_relu_and_dropout
            out = layer(self.dropout(out.relu()) if between else out)
        # Layer-major: layer i owns outputs [i * experts, (i + 1) * experts), as in PEFT and the original.
        logits: Tensor = out.unflatten(-1, (self.layer_count, len(self.config.adapters)))
        return logits

    def forward(self, hidden: Float[Tensor, "batch seq hidden"]) -> Float[Tensor, "batch seq layer expert"]:
        """Scalings of every expert for each token, gated as configured; float32."""
        return gate(self.logits(hidden), self.config, present=self.present)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = [parameter.data for parameter in self.parameters()]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for value, parameter in zip(before, self.parameters(), strict=True):
            parameter.data = in_full_precision(value, parameter.data)
        return self

    def single(self, *, seed: int = 0) -> "ScalingHead":
        """A new head like this one, but with one set of scalings for all layers."""
        config = replace(self.config, layerwise_scalings=False)
        return ScalingHead(config, layer_count=1, seed=seed).to(next(self.parameters()).device)

    def repeat(self, single: "ScalingHead") -> None:
        """Copy the weights of a `single` head, the same for every layer."""
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), single.parameters(), strict=True):
                copies = mine.shape[0] // theirs.shape[0]
                mine.copy_(theirs.repeat(copies, *[1] * (theirs.dim() - 1)))


@contextmanager
def seeded_dropout(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout drawn from this seed for the calls inside; the global random state is restored afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _initialise(layers: nn.ModuleList, seed: int) -> None:
    """Uniform in ±1/√d_in, as nn.Linear does, drawn on the CPU so that a seed means the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight, bound in _bounded(layers):
            values = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
            weight.copy_(values)


def _bounded(layers: nn.ModuleList) -> Iterator[tuple[Tensor, float]]:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            yield layer.weight, bound
            if layer.bias is not None:
                yield layer.bias, bound
