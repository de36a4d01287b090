"""Attention in float32 where torch's in bfloat16 is slow on a CPU: its backward pass, and a single query.

Measured on one thread of a CPU that multiplies bfloat16 twice as fast as float32, 9 heads of 64, one layer.
Forward and backward of 4 sequences of 96 tokens: without a mask 9.3 ms in bfloat16 and 5.7 in float32, with
repeated keys, as a mask of padding has them, 18.1 and 5.4. The next token of 8 sequences after 272, none of
them padded: 2.06 and 0.33; of one sequence 0.26 and 0.05. For several queries in a forward pass alone, as in
a prompt, or with a mask float32 gains nothing.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: Its name in `transformers`' table of attentions.
NAME = "sdpa_in_float32_where_faster"


def attend_in_float32_where_faster(model: PreTrainedModel) -> None:
    """Give a bfloat16 model on a CPU this attention if it uses torch's; leave any other unchanged."""
    on_cpu = model.device.type == "cpu" and model.dtype == torch.bfloat16
    if not on_cpu or model.config.get_text_config(decoder=True)._attn_implementation != "sdpa":
        return
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """As `sdpa` of `transformers`, bit for bit except with gradients or a single query."""
    # With a mask, transformers packs the heads that share keys, and a single query becomes several.
    is_slow = query.requires_grad or (query.shape[2] == 1 and attention_mask is None)
    if not is_slow or query.dtype != torch.bfloat16:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    whole = {name: _in_float32(value) for name, value in kwargs.items()}
    out, weights = sdpa_attention_forward(
        module, query.float(), key.float(), value.float(), _in_float32(attention_mask), **whole
    )
    return out.to(query.dtype), weights


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
