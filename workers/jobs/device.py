"""What this process computes on and in: an unusable GPU raises, and never falls back to the CPU."""

import os
from collections.abc import Mapping

import torch

from registry.settings import stated_compute_dtype
from workers.errors import GpuUnusable
from workers.processes.gpus import visible_gpus
from xlora_engine.devices.compute_dtype import compute_dtype, default_device

#: Names of dtypes in records and settings.
COMPUTE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device_here(environ: Mapping[str, str] | None = None) -> torch.device:
    """The first GPU that this process may use, or the processors where it may use none.

    Raises:
        GpuUnusable: it may use one, and this torch cannot.
    """
    device = default_device()
    gpus = visible_gpus(os.environ if environ is None else environ)
    if gpus and device.type != "cuda":
        raise GpuUnusable(
            f"torch {torch.__version__} cannot use GPU {', '.join(gpus)}: it was built without CUDA, or the"
            " driver is older than it needs; install another build of torch or another driver, or leave"
            " the GPU out on purpose with CUDA_VISIBLE_DEVICES= before the command"
        )
    return device


def dtype_here(device: torch.device, environ: Mapping[str, str] | None = None) -> torch.dtype:
    """What ZOO_COMPUTE_DTYPE says to compute in, else the fastest on this machine."""
    stated = stated_compute_dtype(os.environ if environ is None else environ)
    if stated is None:
        return compute_dtype(device)
    return COMPUTE_DTYPES[stated]
