"""The device that this process computes on: an unusable GPU raises, and never falls back to the CPU."""

import os
from collections.abc import Mapping

import torch

from workers.errors import GpuUnusable
from workers.processes.gpus import visible_gpus
from xlora_engine.devices.compute_dtype import default_device


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
