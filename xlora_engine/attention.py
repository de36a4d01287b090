"""Attention in float32 where gradients flow on a CPU: torch's backward pass in bfloat16 is slow there.

Measured with 4 rows of 96 tokens, 9 heads of 64, forward and backward of one layer, one thread of a CPU that
multiplies bfloat16 twice as fast as float32: without a mask 9.3 ms in bfloat16 and 5.7 in float32, with
repeated keys, as a mask of padding has them, 18.1 and 5.4.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: What this is called in `transformers`' table of attentions.
NAME = "sdpa_with_float32_gradients"


def differentiate_in_float32(model: PreTrainedModel) -> None:
    """Give a bfloat16 model on a CPU this attention, if it has torch's; of any other, leave it alone."""
    on_cpu = model.device.type == "cpu" and model.dtype == torch.bfloat16
    if not on_cpu or model.config.get_text_config(decoder=True)._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """As `sdpa` of `transformers` has it, bit for bit where no gradient is asked for."""
    if not query.requires_grad or query.dtype != torch.bfloat16:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    out, weights = sdpa_attention_forward(
        module, query.float(), key.float(), value.float(), attention_mask, **kwargs
    )
    return out.to(query.dtype), weights
