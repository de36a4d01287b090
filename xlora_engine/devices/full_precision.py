"""Tensors that stay in float32 when a model is cast to a shorter dtype: few values that decide much."""

import torch
from torch import Tensor


def in_full_precision(before: Tensor, cast: Tensor) -> Tensor:
    """`cast`, but in the dtype of `before` if the new dtype has fewer than 32 bits."""
    if cast.dtype.itemsize >= torch.float32.itemsize:
        return cast
    return before.to(cast.device)
