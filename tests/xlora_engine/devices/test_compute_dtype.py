"""The dtype to compute in: bfloat16 only where the CPU has it and is clearly faster with it."""

import pytest
import torch

from xlora_engine.devices.compute_dtype import compute_dtype, default_device, faster_dtype, has_bfloat16


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, False),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True}, True),
        ({"amx_tile": True, "amx_bf16": True}, True),
        ({"architecture": "aarch64", "bf16": True}, True),
        ({"architecture": "aarch64", "neon": True}, False),
    ],
)
def test_whether_a_cpu_multiplies_bfloat16_is_detected(
    capabilities: dict[str, object], expected: bool
) -> None:
    assert has_bfloat16(capabilities) is expected


@pytest.mark.parametrize(
    ("bfloat16_s", "expected"),
    [(0.5, torch.bfloat16), (0.79, torch.bfloat16), (0.95, torch.float32), (2.0, torch.float32)],
)
def test_bfloat16_is_chosen_only_where_it_is_clearly_faster(bfloat16_s: float, expected: torch.dtype) -> None:
    assert faster_dtype({torch.float32: 1.0, torch.bfloat16: bfloat16_s}.__getitem__) == expected


def test_one_slow_measurement_decides_nothing() -> None:
    seconds = {torch.float32: iter([1.0] * 7), torch.bfloat16: iter([9.0, 9.0, 0.5, 9.0, 9.0, 9.0, 9.0])}
    assert faster_dtype(lambda dtype: next(seconds[dtype])) == torch.bfloat16


def test_this_machine_decides_the_same_way_twice() -> None:
    threads = torch.get_num_threads()
    first = compute_dtype(default_device())
    assert torch.get_num_threads() == threads
    assert first in (torch.float32, torch.bfloat16)
    assert compute_dtype(default_device()) is first
