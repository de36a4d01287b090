"""Models on the device that `--device` names, beside the same ones on the CPU in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.pico import pico_llama
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel

#: Builds the model of the three experts, on a device and in a dtype.
Build = Callable[..., XLoraModel]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


@pytest.fixture
def build(expert_folders: dict[str, Path]) -> Build:
    def built(device: torch.device, dtype: torch.dtype = torch.float32, **config: Any) -> XLoraModel:
        fields: dict[str, Any] = {"xlora_depth": 2, "xlora_size": 16, "layerwise_scalings": True} | config
        base = torch.nn.Module.to(pico_llama(), device, dtype)
        model = XLoraModel.from_adapters(base, expert_folders, XLoraConfig(**fields))
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.mul_(4.0)  # logits far apart
        return model.eval()

    return built


@pytest.fixture
def ids(device: torch.device) -> Tensor:
    return torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(0)).to(device)
