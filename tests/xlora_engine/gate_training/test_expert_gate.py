"""The gate of one expert: what learns, what stays, and where the first step goes."""

import pytest
import torch
from torch import Tensor, nn

from tests.pico import pico_adapter, pico_llama
from xlora_engine.data.chat import EncodedExample, collate
from xlora_engine.errors import ConfigInvalid, TrainingStopped
from xlora_engine.gate_training.expert_gate import train_gate
from xlora_engine.gate_training.settings import GateTraining
from xlora_engine.sources.adapter_weights import Expert, LowRank, read_expert

EXAMPLES = [EncodedExample(token_ids=(1, 5 + n, 9, 4, 8, 2), prompt_length=3) for n in range(4)]


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Expert:
    return read_expert(pico_adapter(tmp_path_factory.mktemp("expert"), seed=3, rank=4, alpha=16), "expert")


class _Gated(nn.Module):
    """A layer with an expert behind a sigmoid gate, as the paper writes it."""

    def __init__(self, base: nn.Module, update: LowRank) -> None:
        super().__init__()
        self.base, self.update = base, update
        self.gate = nn.Parameter(torch.zeros(update.A.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        added = self.update.scale * (x @ self.update.A.T @ self.update.B.T)
        out: Tensor = self.base(x) + (x @ self.gate).sigmoid()[..., None] * added
        return out


def test_the_first_step_goes_against_the_gradient_of_the_gates_alone(expert: Expert) -> None:
    settings = GateTraining(steps=1, batch_size=len(EXAMPLES), learning_rate=1e-3)
    base = pico_llama()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    gate = train_gate(base, expert, EXAMPLES, settings, pad_id=0)
    by_hand = pico_llama().requires_grad_(False)
    layers = {path: _Gated(by_hand.get_submodule(path), update) for path, update in expert.updates.items()}
    for path, layer in layers.items():
        by_hand.set_submodule(path, layer)
    batch = collate(EXAMPLES, pad_id=0)
    by_hand(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
    ).loss.backward()
    assert gate.keys() == layers.keys()
    for path, vector in gate.items():
        gradient = layers[path].gate.grad
        assert gradient is not None
        # Adam's first step is the learning rate, wherever the gradient is not nearly nothing.
        certain = gradient.abs() > 1e-5
        assert certain.any()
        torch.testing.assert_close(vector[certain], -1e-3 * gradient.sign()[certain], atol=2e-6, rtol=2e-3)
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name])


def test_it_learns_from_its_data(expert: Expert) -> None:
    losses: list[float] = []
    train_gate(
        pico_llama(),
        expert,
        EXAMPLES,
        GateTraining(steps=20, batch_size=4, learning_rate=0.1),
        pad_id=0,
        on_step=lambda _, loss: losses.append(loss),
    )
    assert len(losses) == 20
    assert losses[-1] < losses[0]


def test_a_base_in_bfloat16_trains_gates_too(expert: Expert) -> None:
    base = pico_llama()
    nn.Module.to(base, torch.bfloat16)
    # So many tokens that factors which are not trained are cast.
    long = [EncodedExample(token_ids=tuple(range(3, 43)), prompt_length=20)] * 4
    gate = train_gate(base, expert, long, GateTraining(steps=1), pad_id=0)
    assert any(vector.abs().max() > 0 for vector in gate.values())


def test_it_stops_when_it_is_told_to_and_gives_the_base_model_back(expert: Expert) -> None:
    base = pico_llama()
    modules = {path: type(module) for path, module in base.named_modules()}
    with pytest.raises(TrainingStopped, match="after 0 steps"):
        train_gate(base, expert, EXAMPLES, GateTraining(), pad_id=0, stop=lambda: True)
    assert {path: type(module) for path, module in base.named_modules()} == modules


def test_it_needs_an_example(expert: Expert) -> None:
    with pytest.raises(ConfigInvalid, match="examples"):
        train_gate(pico_llama(), expert, [], GateTraining(), pad_id=0)
