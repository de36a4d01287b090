"""The device and the dtype to compute in: bfloat16 where a measurement shows that it is faster."""

import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

#: Names in `torch.cpu.get_capabilities` of instructions that multiply bfloat16 (x86, then ARM).
_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")

#: Share of float32's time that bfloat16 may take and still be chosen: well below 1, so that one machine
#: decides the same way every time.
_BFLOAT16_TIME_SHARE = 0.8

#: A product of a small language model's training step: tokens, hidden width, inner width.
_TOKENS, _HIDDEN, _INNER = 128, 576, 1536
_REPEATS = 7


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32, else float32.

    A CPU that has bfloat16 instructions may still be slower with them: AVX512-BF16 without AMX was
    measured to take 1.7 to 2.4 times as long as float32, emulation seventeen times as long.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if not has_bfloat16(torch.cpu.get_capabilities()):
        return torch.float32
    return _measured_cpu_dtype()


def has_bfloat16(capabilities: Mapping[str, Any]) -> bool:
    """Whether a CPU with these capabilities has instructions that multiply bfloat16."""
    return any(capabilities.get(name, False) for name in _BFLOAT16_INSTRUCTIONS)


def faster_dtype(seconds_of: Callable[[torch.dtype], float]) -> torch.dtype:
    """bfloat16 if it takes clearly less time than float32; the dtypes alternate, the best of each counts."""
    dtypes = (torch.float32, torch.bfloat16)
    best = dict.fromkeys(dtypes, float("inf"))
    for _ in range(_REPEATS):
        for dtype in dtypes:
            best[dtype] = min(best[dtype], seconds_of(dtype))
    limit = best[torch.float32] * _BFLOAT16_TIME_SHARE
    return torch.bfloat16 if best[torch.bfloat16] <= limit else torch.float32


@cache
def _measured_cpu_dtype() -> torch.dtype:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return faster_dtype(_product_seconds)
    finally:
        torch.set_num_threads(threads)


def _product_seconds(dtype: torch.dtype) -> float:
    """Processor time of one thread: on a busy machine, time spent waiting would hide the difference."""
    tokens = torch.ones(_TOKENS, _HIDDEN, dtype=dtype)
    weight = torch.ones(_INNER, _HIDDEN, dtype=dtype)
    started = time.thread_time()
    torch.nn.functional.linear(tokens, weight)
    return time.thread_time() - started
