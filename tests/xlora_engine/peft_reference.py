"""PEFT's X-LoRA with the same experts and scaling head as an engine's model, to compare the two.

PEFT finds its experts only under the names "0", "1", …; `from_pretrained` and its saving are not used,
because 0.20 to 0.21.2 lose head layers there.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from xlora_engine.config import XLoraConfig

#: Fields that both configurations have, with the same meaning.
_SHARED_FIELDS = (
    "hidden_size",
    "layerwise_scalings",
    "xlora_depth",
    "xlora_size",
    "xlora_dropout_p",
    "enable_softmax",
    "softmax_temperature",
    "top_k_lora",
    "enable_softmax_topk",
    "scaling_pass_value",
    "global_scaling_weight",
    "use_trainable_adapters",
)


def peft_xlora(
    base: PreTrainedModel, folders: Sequence[Path], config: XLoraConfig, head: nn.Module
) -> nn.Module:
    """PEFT's model, in eval mode; `base` is taken over by it."""
    base.config.use_cache = False
    shared: dict[str, Any] = {field: getattr(config, field) for field in _SHARED_FIELDS}
    names = {str(i): str(folder) for i, folder in enumerate(folders)}
    with quiet_peft():
        model: nn.Module = peft.get_peft_model(
            base,
            peft.XLoraConfig(task_type="CAUSAL_LM", adapters=names, **shared),
            autocast_adapter_dtype=False,
        )
    theirs = [value for name, value in model.named_parameters() if "internal_xlora_classifier" in name]
    with torch.no_grad():
        for target, source in zip(theirs, head.parameters(), strict=True):
            target.copy_(source)
    model.eval()
    return model


@torch.no_grad()
def peft_logits(model: nn.Module, input_ids: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Logits and scalings [batch seq layer expert], repeated over the layers where they are shared."""
    logits: Tensor = model(input_ids=input_ids, use_cache=False, **inputs).logits
    return logits, model.get_latest_scalings()  # type: ignore[operator]


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Inside, PEFT may read what transformers 5.24 renamed, and an expert may change a tied embedding."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        yield
