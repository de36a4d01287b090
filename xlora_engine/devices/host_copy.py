"""Asynchronous host-to-device copy: it does not wait for the work queued on the device.

A plain `.to(device)` from the host waits for the whole stream. Not waiting is safe in this direction: memory
that is not pinned is copied to a staging buffer before the call returns
(https://docs.nvidia.com/cuda/cuda-driver-api/api-sync-behavior.html).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(
    values: Tensor | Sequence[object], device: torch.device, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Copy numbers, or a tensor in host memory, to the device."""
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=True)
