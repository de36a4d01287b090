"""What the host knows, on a device, without waiting for the work that the device was given before.

A plain `.to(device)` from the host waits for the whole stream. That it need not is safe in this direction:
memory that is not pinned is copied away before the call returns
(https://docs.nvidia.com/cuda/cuda-driver-api/api-sync-behavior.html).
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(
    values: Tensor | Sequence[object], device: torch.device, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Numbers, or a tensor of the host, as a tensor on the device."""
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=True)
