"""Activation checkpointing changes memory and time, never a gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM

from tests.pico import pico_adapter, pico_llama
from tests.xlora_engine.conftest import Mixture
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid
from xlora_engine.model import XLoraModel

either_kind = pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])


def gradients(model: XLoraModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train_once(model: XLoraModel, *batches: Tensor) -> dict[str, Tensor]:
    """Forward all batches, then one backward."""
    torch.manual_seed(0)  # the head's dropout
    model.train()
    losses = [model(batch, labels=batch).loss for batch in batches]
    model.zero_grad()
    torch.stack(losses).sum().backward()
    return gradients(model)


@either_kind
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"layerwise_scalings": False},
        {"scaling_pass_value": 0.5},
        {"top_k_lora": 2},
        {"use_trainable_adapters": True},
        {"use_trainable_adapters": True, "layerwise_scalings": False, "scaling_pass_value": 0.5},
    ],
    ids=str,
)
def test_gradients_equal_those_without_even_for_two_forwards_before_one_backward(
    config: dict[str, Any], reentrant: bool, mixture: Mixture, token_ids: Tensor
) -> None:
    batches = (token_ids, token_ids.flip(1))
    expected = train_once(mixture(**config), *batches)
    model = mixture(**config)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})

    found = train_once(model, *batches)

    assert found.keys() == expected.keys() != set()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


@either_kind
def test_experts_of_some_blocks_embedding_and_output_layer_get_equal_gradients(
    reentrant: bool, tmp_path: Path, token_ids: Tensor
) -> None:
    """The first block has no expert, hence nothing of its own that a gradient is for."""
    adapters = {
        "late": pico_adapter(tmp_path / "late", seed=1, layers_to_transform=[1]),
        "last": pico_adapter(tmp_path / "last", seed=2, target_modules=("lm_head",)),
    }
    early = {"first": pico_adapter(tmp_path / "first", seed=3, target_modules=("embed_tokens",))}

    for experts in (adapters, adapters | early):
        for trained in (False, True):
            config = XLoraConfig(layerwise_scalings=True, use_trainable_adapters=trained)
            expected = train_once(XLoraModel.from_adapters(pico_llama(), experts, config), token_ids)
            model = XLoraModel.from_adapters(pico_llama(), experts, config)
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})

            found = train_once(model, token_ids)

            assert found.keys() == expected.keys() != set()
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


@either_kind
def test_experts_are_trained_under_scalings_that_are_not(
    reentrant: bool, mixture: Mixture, token_ids: Tensor
) -> None:
    def run(model: XLoraModel) -> dict[str, Tensor]:
        uniform = model.constant_scalings([1 / 3] * 3)
        model.train()
        loss = model.mixture_pass(uniform, input_ids=token_ids, labels=token_ids, use_cache=False).loss
        assert loss is not None
        loss.backward()
        return gradients(model)

    expected = run(mixture(use_trainable_adapters=True))
    model = mixture(use_trainable_adapters=True)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})

    found = run(model)

    assert found.keys() == expected.keys() != set()
    assert not any(name.startswith("head") for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


@either_kind
def test_blocks_really_keep_nothing_and_are_computed_again(
    reentrant: bool, mixture: Mixture, token_ids: Tensor
) -> None:
    def runs_of_a_block(model: XLoraModel) -> list[str]:
        events: list[str] = []
        block = model.base.get_submodule("model.layers.0.self_attn")
        block.register_forward_hook(lambda *_: events.append("block"))
        model.train()
        loss = model(token_ids, labels=token_ids).loss
        events.append("backward")
        loss.backward()
        return events

    kept, recomputed = mixture(), mixture()
    recomputed.gradient_checkpointing_enable({"use_reentrant": reentrant})

    assert runs_of_a_block(kept) == ["block", "block", "backward"]
    assert runs_of_a_block(recomputed) == ["block", "block", "backward", "block"]
    recomputed.gradient_checkpointing_disable()
    assert runs_of_a_block(recomputed)[-1] == "backward"


@either_kind
def test_recomputing_the_mixture_pass_alone_gives_the_same_gradients(
    reentrant: bool, mixture: Mixture, token_ids: Tensor
) -> None:
    def run(model: XLoraModel) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model.train()
        scalings = model.head(model.scaling_pass(token_ids))
        loss = model.mixture_pass(scalings, input_ids=token_ids, labels=token_ids, use_cache=False).loss
        assert loss is not None
        loss.backward()
        return gradients(model)

    expected = run(mixture())
    model = mixture()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})

    for name, gradient in run(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


@either_kind
def test_backward_may_run_twice_over_one_forward(
    reentrant: bool, mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture(xlora_dropout_p=0.0)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()

    loss = model(token_ids, labels=token_ids).loss
    loss.backward(retain_graph=True)
    once = gradients(model)
    loss.backward()

    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name])


def test_a_context_of_the_callers_own_is_refused(mixture: Mixture) -> None:
    with pytest.raises(ConfigInvalid, match="context_fn must be left out"):
        mixture().gradient_checkpointing_enable({"context_fn": lambda: None})


@pytest.mark.parametrize("way", ["disabled", "unloaded"])
def test_a_base_that_is_given_back_has_its_own_recomputation(
    way: str, mixture: Mixture, token_ids: Tensor
) -> None:
    """The engine would keep the dropout of its blocks off."""
    model = mixture(base={"attention_dropout": 0.5})
    model.gradient_checkpointing_enable()

    base = model.unload() if way == "unloaded" else model.base
    if way == "disabled":
        model.gradient_checkpointing_disable()

    assert not base.is_activation_checkpointing
    assert model.is_gradient_checkpointing is (way == "unloaded")
    base.activation_checkpointing_enable()
    base.train()
    first, second = (base(token_ids, use_cache=False).logits for _ in range(2))
    assert not torch.equal(first, second), "its dropout acts"


@either_kind
def test_the_base_stays_in_eval_mode_and_generation_keeps_its_cache(
    reentrant: bool, mixture: Mixture, token_ids: Tensor
) -> None:
    expected = mixture().generate(token_ids, max_new_tokens=5, do_sample=False)
    model = mixture(xlora_dropout_p=0.0)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()

    assert torch.equal(model.generate(token_ids, max_new_tokens=5, do_sample=False), expected)
    out = model(token_ids, use_cache=True)
    assert out.cache.get_seq_length() == token_ids.shape[1], "a pass that fills a cache is not recomputed"
    assert not any(module.training for module in model.base.modules())


@either_kind
def test_a_block_with_dropout_of_its_own_stays_in_eval_mode(reentrant: bool, tmp_path: Path) -> None:
    """OPT's blocks drop out by themselves, in whatever mode they are marked."""

    def base() -> Any:
        torch.manual_seed(0)
        return OPTForCausalLM(
            OPTConfig(
                vocab_size=60,
                hidden_size=16,
                word_embed_proj_dim=16,
                ffn_dim=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=32,
                dropout=0.5,
            )
        ).eval()

    adapters = {name: pico_adapter(tmp_path / name, seed=i, base=base()) for i, name in enumerate("ab")}
    token_ids = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    models = [XLoraModel.from_adapters(base(), adapters, XLoraConfig(xlora_dropout_p=0.0)) for _ in range(2)]
    models[1].gradient_checkpointing_enable({"use_reentrant": reentrant})

    expected, found = (train_once(model, token_ids) for model in models)

    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
