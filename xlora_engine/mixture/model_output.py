"""The output of an X-LoRA model: its base model's, and the scalings it was computed with."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast


@dataclass
class XLoraOutput(CausalLMOutputWithPast):
    """A causal language model's output, and the scalings it was computed with."""

    #: `[batch seq layer expert]`; the layer axis has length 1 where all layers have the same scalings.
    scalings: Tensor | None = None
    #: What a mixture-of-experts base adds, if asked for.
    aux_loss: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None

    @classmethod
    def of(cls, out: Mapping[str, Any], *, scalings: Tensor | None, cache: Cache | None) -> Self:
        """A base model's output with these scalings and this cache."""
        known = {field.name for field in fields(cls)}
        kept = {name: value for name, value in out.items() if name in known}
        return cls(**{**kept, "scalings": scalings, "cache": cache})
