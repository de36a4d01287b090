"""What stays in float32 when a model is cast to a shorter dtype: values that are few, and decide."""

import torch
from torch import Tensor


def in_full_precision(before: Tensor, cast: Tensor) -> Tensor:
    """A tensor as `cast` is, but in the dtype it had where the new one is of fewer than 32 bits."""
    if cast.dtype.itemsize >= torch.float32.itemsize:
        return cast
    return before.to(cast.device)
