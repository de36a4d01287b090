"""What a job computes on, as the environment and this machine's torch have it."""

import pytest
import torch

from workers.errors import GpuUnusable
from workers.jobs.device import COMPUTE_DTYPES, device_here, dtype_here


@pytest.mark.parametrize("environ", [{"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}])
def test_processors_where_no_gpu_may_be_used(environ: dict[str, str]) -> None:
    assert device_here(environ).type == "cpu"


def test_a_gpu_that_torch_cannot_use_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GpuUnusable, match=r"cannot use GPU 0, 1: .*CUDA_VISIBLE_DEVICES= before"):
        device_here({"CUDA_VISIBLE_DEVICES": "0,1"})


def test_a_gpu_that_torch_can_use_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_here({"CUDA_VISIBLE_DEVICES": "GPU-1"}) == torch.device("cuda")


@pytest.mark.parametrize("name", COMPUTE_DTYPES)
def test_what_is_stated_is_computed_in(name: str) -> None:
    stated = dtype_here(torch.device("cpu"), {"ZOO_COMPUTE_DTYPE": name})
    assert str(stated) == f"torch.{name}"
    assert dtype_here(torch.device("cpu"), {"ZOO_COMPUTE_DTYPE": ""}) in COMPUTE_DTYPES.values()
