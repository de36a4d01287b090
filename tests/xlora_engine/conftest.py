"""Experts and mixtures that the engine's tests share, built once."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from tests.pico import pico_adapter, pico_llama
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel

#: Builds a model of the three experts; keyword arguments are `XLoraConfig` fields.
Mixture = Callable[..., XLoraModel]

# The same examples every time, whatever else the machine is doing, and nothing left in the working folder.
settings.register_profile("engine", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("engine")


class Collected(BaseStreamer):
    """A streamer that keeps what it receives."""

    def __init__(self) -> None:
        self.parts: list[list[int]] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.parts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def collect_less() -> Iterator[None]:
    """For modules that train: a Trainer collects garbage whenever it starts, over all that torch imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def expert_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three experts that differ in rank, alpha, scale rule, patterns and target modules."""
    root = tmp_path_factory.mktemp("experts")
    return {
        "bio": pico_adapter(root / "bio", seed=1, rank=4, alpha=8),
        "protein.v2": pico_adapter(
            root / "protein",
            seed=2,
            rank=6,
            alpha=3,
            use_rslora=True,
            target_modules=("q_proj", "o_proj", "down_proj"),
        ),
        "mat-3": pico_adapter(
            root / "materials",
            seed=3,
            rank=3,
            alpha=6,
            target_modules=("q_proj", "k_proj", "gate_proj"),
            rank_pattern={"k_proj": 5},
            alpha_pattern={"layers.1.self_attn.k_proj": 2, "gate_proj": 9},
        ),
    }


@pytest.fixture(scope="session")
def mixture(expert_folders: dict[str, Path]) -> Mixture:
    """Builds a model of the three experts on a new pico Llama, in eval mode, its head's logits far apart."""

    def build(*, base: dict[str, Any] | None = None, spread: float = 4.0, **config: Any) -> XLoraModel:
        fields = {"xlora_depth": 2, "xlora_size": 16, "layerwise_scalings": True} | config
        model = XLoraModel.from_adapters(pico_llama(**(base or {})), expert_folders, XLoraConfig(**fields))
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.mul_(spread)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def token_ids() -> Tensor:
    """Two sequences of nine tokens, none of them special."""
    return torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(0))
