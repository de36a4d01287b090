"""The scaling head: shapes, seeds, parameter counts, gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from tests.pico import pico_adapter
from xlora_engine.config import XLoraConfig
from xlora_engine.mixture.head import ScalingHead
from xlora_engine.model import XLoraModel


def head_of(*, layer_count: int = 5, experts: int = 3, seed: int = 0, **config: Any) -> ScalingHead:
    names = tuple(f"e{i}" for i in range(experts))
    return ScalingHead(
        XLoraConfig(adapters=names, hidden_size=8, xlora_size=6, **config), layer_count=layer_count, seed=seed
    ).eval()


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize(("layerwise", "layers"), [(False, 1), (True, 5)])
def test_scalings_have_one_vector_for_each_token_and_layer(depth: int, layerwise: bool, layers: int) -> None:
    head = head_of(xlora_depth=depth, layerwise_scalings=layerwise)

    assert head(torch.randn(2, 7, 8)).shape == (2, 7, layers, 3)


def test_outputs_are_numbered_layer_by_layer() -> None:
    head = head_of(layerwise_scalings=True, enable_softmax=False, use_bias=False)
    with torch.no_grad():
        next(head.parameters()).copy_(torch.arange(15.0)[:, None].expand(15, 8) / 8)

    logits = head.logits(torch.ones(1, 1, 8))

    assert torch.equal(logits, torch.arange(15.0).view(1, 1, 5, 3))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_names_of_tensors_do_not_depend_on_dropout(dropout: float) -> None:
    names = list(head_of(xlora_depth=3, xlora_dropout_p=dropout).state_dict())

    assert names == [f"layers.{i}.{kind}" for i in range(3) for kind in ("weight", "bias")]


def test_a_head_without_bias_has_none() -> None:
    assert list(head_of(xlora_depth=2, use_bias=False).state_dict()) == ["layers.0.weight", "layers.1.weight"]


def test_parameter_counts_are_those_of_the_published_models() -> None:
    def count(*, experts: int, layer_count: int, hidden_size: int, depth: int) -> int:
        config = XLoraConfig(
            adapters=tuple(map(str, range(experts))),
            hidden_size=hidden_size,
            xlora_depth=depth,
            layerwise_scalings=True,
        )
        return sum(p.numel() for p in ScalingHead(config, layer_count=layer_count).parameters())

    assert count(experts=9, layer_count=160, hidden_size=4096, depth=1) == 5_899_680  # lamm-mit/x-lora
    assert count(experts=4, layer_count=196, hidden_size=3072, depth=2) == 7_899_920  # x-lora-gemma-7b


def test_a_seed_decides_every_value_and_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()

    first, again, other = head_of(seed=1), head_of(seed=1), head_of(seed=2)

    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])


def test_values_are_as_large_as_those_of_a_fresh_linear_layer() -> None:
    config = XLoraConfig(adapters=("a", "b"), hidden_size=64, xlora_size=256, xlora_depth=2)
    ours = ScalingHead(config, layer_count=1).state_dict()["layers.0.weight"]
    theirs = nn.Linear(64, 256).weight

    assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.02)
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.02)


def test_dropout_acts_in_training_alone() -> None:
    head = head_of(xlora_depth=2, xlora_dropout_p=0.5)
    hidden = torch.randn(1, 4, 8)

    assert torch.equal(head(hidden), head(hidden))
    head.train()
    assert not torch.equal(head(hidden), head(hidden))


def test_without_relu_and_dropout_the_head_is_one_linear_map_even_in_training() -> None:
    head = head_of(xlora_depth=3, enable_relu_and_dropout=False).train()
    hidden = torch.randn(1, 4, 8)

    first, second, last = (layer for layer in head.layers if isinstance(layer, nn.Linear))
    weight = last.weight @ second.weight @ first.weight
    bias = last.weight @ (second.weight @ first.bias + second.bias) + last.bias

    assert (head.logits(hidden)[:, :, 0] - (hidden @ weight.T + bias)).abs().max() < 1e-5
    with_relu = head_of(xlora_depth=3)
    assert (with_relu.logits(hidden) - head.logits(hidden)).abs().max() > 1e-3


def test_a_bfloat16_hidden_state_is_read_in_float32() -> None:
    head = head_of()
    hidden = torch.randn(1, 4, 8).to(torch.bfloat16)

    scalings = head(hidden)

    assert scalings.dtype == torch.float32
    assert torch.equal(scalings, head(hidden.float()))


def test_a_single_gate_repeated_for_all_layers_gives_every_layer_its_scalings() -> None:
    head = head_of(xlora_depth=2, layerwise_scalings=True)
    single = head.single(seed=3).eval()
    hidden = torch.randn(1, 4, 8)

    head.repeat(single)

    torch.testing.assert_close(head(hidden), single(hidden).expand(1, 4, 5, 3))


def gpt2() -> Any:
    """A model that computes in float64 throughout; a Llama's norms fall back to float32."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def gpt2_experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("gpt2")
    targets = {"a": ("c_attn",), "b": ("c_attn", "c_fc"), "c": ("c_fc",)}
    return {
        name: pico_adapter(
            root / name, seed=seed, rank=3, target_modules=modules, base=gpt2(), fan_in_fan_out=True
        )
        for seed, (name, modules) in enumerate(targets.items())
    }


@pytest.mark.parametrize(
    "config",
    [
        {"xlora_depth": 1},
        {"xlora_depth": 2, "layerwise_scalings": True},
        {"xlora_depth": 2, "softmax_temperature": 0.5, "top_k_lora": 2},
        {"enable_softmax": False, "enable_softmax_topk": True, "top_k_lora": 2},
        {"enable_softmax": False, "scaling_pass_value": 0.3},
        {"absent_experts": "renormalise"},
        {"use_trainable_adapters": True, "layerwise_scalings": True},
    ],
    ids=lambda config: ", ".join(f"{k}={v}" for k, v in config.items()),
)
def test_gradients_of_the_whole_model_are_finite_differences_of_its_loss(
    config: dict[str, Any], gpt2_experts: dict[str, Path]
) -> None:
    base = gpt2()
    nn.Module.to(base, torch.float64)
    model = XLoraModel.from_adapters(base, gpt2_experts, XLoraConfig(xlora_size=4, **config))
    model.head.double()
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(0, 50, (2, 6), generator=generator)

    def loss() -> Tensor:
        logits = model(token_ids).logits
        assert logits.dtype == torch.float64
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten())

    loss().backward()

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) > len(list(model.head.parameters())) or not config.get("use_trainable_adapters")
    for parameter in trained:
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        with torch.no_grad():
            parameter.add_(step * direction)
            above = loss().item()
            parameter.sub_(2 * step * direction)
            below = loss().item()
            parameter.add_(step * direction)
        assert parameter.grad is not None
        expected = (parameter.grad * direction).sum().item()
        assert expected != 0
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=1e-5, abs=1e-9)
