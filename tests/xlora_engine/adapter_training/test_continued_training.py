"""An adapter trained further begins as it was, and is never mistaken for one that began elsewhere."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from formats.chat_examples import ChatExample
from tests.pico import pico_adapter, pico_llama, pico_tokenizer
from xlora_engine.adapter_training.settings import AdapterTraining
from xlora_engine.adapter_training.train_adapter import TrainedAdapter, train_adapter
from xlora_engine.data.chat import encode
from xlora_engine.errors import ConfigInvalid, TrainingStopped

#: The steps are so small that what comes out is what went in.
STILL = AdapterTraining(
    rank=4,
    alpha=8,
    target_modules=("q_proj", "v_proj"),
    steps=2,
    batch_size=2,
    warmup_steps=0,
    learning_rate=1e-12,
    inactive_prefix=False,
)


def trained(
    folder: Path, initial: Path | None, settings: AdapterTraining = STILL, *, stops: bool = False
) -> TrainedAdapter:
    tokenizer = pico_tokenizer()
    examples = [
        encode(tokenizer, ChatExample(messages=(("user", f"{n}?"), ("assistant", "a" * n))), max_tokens=100)
        for n in range(1, 6)
    ]
    return train_adapter(
        pico_llama().requires_grad_(False),
        tokenizer,
        examples,
        settings,
        base_name="pico",
        folder=folder,
        initial=initial,
        stop=lambda: stops,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture
def initial(tmp_path: Path) -> Path:
    return pico_adapter(tmp_path / "initial", seed=3)


def test_it_begins_as_it_was(tmp_path: Path, initial: Path) -> None:
    made = weights(trained(tmp_path / "new", initial).folder)
    torch.testing.assert_close(made, weights(initial), rtol=0, atol=1e-9)


def test_it_learns_from_there(tmp_path: Path, initial: Path) -> None:
    learning = replace(STILL, learning_rate=1e-2)
    continued, new = trained(tmp_path / "a", initial, learning), trained(tmp_path / "b", None, learning)
    assert continued.losses[0] != new.losses[0]
    before = weights(initial)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(continued.folder).items())


def test_an_adapter_that_was_active_on_the_prefix_is_not_any_more(tmp_path: Path, initial: Path) -> None:
    inactive = replace(STILL, inactive_prefix=True)
    once = trained(tmp_path / "once", initial, inactive).folder
    assert any(not torch.allclose(tensor, weights(initial)[name]) for name, tensor in weights(once).items())
    again = trained(tmp_path / "again", once, inactive).folder
    torch.testing.assert_close(weights(again), weights(once), rtol=0, atol=1e-6)


@pytest.mark.parametrize("other", [{"rank": 2}, {"target_modules": ("q_proj",)}])
def test_another_shape_is_refused(tmp_path: Path, initial: Path, other: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid, match=r"initial_adapter must be an adapter of the modules and rank"):
        trained(tmp_path / "new", initial, replace(STILL, **other))


def test_a_checkpoint_that_began_elsewhere_is_not_taken_up(tmp_path: Path, initial: Path) -> None:
    folder = tmp_path / "new"
    with pytest.raises(TrainingStopped):
        trained(folder, initial, stops=True)
    other = pico_adapter(tmp_path / "other", seed=4)
    made = weights(trained(folder, other).folder)
    torch.testing.assert_close(made, weights(other), rtol=0, atol=1e-9)
