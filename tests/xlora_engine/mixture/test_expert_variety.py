"""Experts of different layers, of the embedding, of the output layer: exact, whatever becomes of shares."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.pico import pico_adapter, pico_llama
from tests.xlora_engine.conftest import Mixture
from tests.xlora_engine.peft_reference import quiet_peft
from tests.xlora_engine.slow_reference import slow_logits
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel

#: Largest absolute difference of float32 logits, which are of size 10: additions come in another order.
TOLERANCE = 2e-5

each_rule = pytest.mark.parametrize("rule", ["drop", "renormalise"])

GATES: dict[str, dict[str, Any]] = {
    "layerwise": {},
    "shared": {"layerwise_scalings": False},
    "temperature": {"softmax_temperature": 0.4},
    "top 2": {"top_k_lora": 2},
    "softmax over the top 2": {"top_k_lora": 2, "enable_softmax": False, "enable_softmax_topk": True},
    "both passes": {"scaling_pass_value": 0.5, "global_scaling_weight": 0.7, "layerwise_scalings": False},
}


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@each_rule
@pytest.mark.parametrize("gates", GATES)
def test_shares_of_absent_experts_are_dealt_with_as_in_the_slow_loop(
    gates: str, rule: str, mixture: Mixture, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = mixture(absent_experts=rule, **GATES[gates])

    with torch.no_grad():
        out = model(token_ids)
    folders = list(expert_folders.values())
    slow, scalings = slow_logits(pico_llama(), folders, model.head, model.config, token_ids)

    assert_close(out.logits, slow)
    assert_close(out.scalings, scalings)


def test_the_two_rules_differ_where_an_expert_is_absent_and_nowhere_else(
    mixture: Mixture, token_ids: Tensor
) -> None:
    dropping, renormalising = (mixture(absent_experts=rule) for rule in ("drop", "renormalise"))

    with torch.no_grad():
        before, after = dropping(token_ids).scalings, renormalising(token_ids).scalings

    for number, layer in enumerate(dropping.layers.values()):
        present = [i in layer.ranks for i in range(3)]
        share = before[:, :, number, present]
        assert_close(after[:, :, number, present], share / share.sum(-1, keepdim=True))
        assert (after[:, :, number, [not here for here in present]] == 0).all()
        assert torch.equal(before[:, :, number], after[:, :, number]) == all(present)


def test_constant_scalings_are_what_they_are_under_either_rule(mixture: Mixture, token_ids: Tensor) -> None:
    """One-hot scalings are that adapter alone, and the scaling pass adds no share of its own making."""
    dropping, renormalising = (
        mixture(absent_experts=rule, scaling_pass_value=0.3) for rule in ("drop", "renormalise")
    )

    with torch.no_grad():
        assert torch.equal(dropping.scaling_pass(token_ids), renormalising.scaling_pass(token_ids))
        for values in ([0.0, 1.0, 0.0], [1 / 3] * 3):
            given = dropping.constant_scalings(values)
            with dropping.fixed_scalings(given), renormalising.fixed_scalings(given):
                assert torch.equal(dropping(token_ids).logits, renormalising(token_ids).logits)


@pytest.mark.parametrize("gates", ["layerwise", "shared"])
def test_renormalised_shares_keep_caches_and_recomputation_exact(
    gates: str, mixture: Mixture, token_ids: Tensor
) -> None:
    fields = {"absent_experts": "renormalise", "xlora_dropout_p": 0.0, **GATES[gates]}
    model = mixture(**fields)
    with torch.no_grad():
        expected, cache = model(token_ids).logits, model.new_cache()
        parts = [model(part, cache=cache, use_cache=True).logits for part in token_ids.split([4, 3, 1, 1], 1)]
    assert_close(torch.cat(parts, 1), expected)

    def gradients(model: XLoraModel) -> list[Tensor | None]:
        model.train()
        model(token_ids, labels=token_ids).loss.backward()
        return [parameter.grad for parameter in model.head.parameters()]

    kept = gradients(mixture(**fields))
    model.gradient_checkpointing_enable({"use_reentrant": True})
    torch.testing.assert_close(gradients(model), kept, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def outer_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Experts of the embedding, of the output layer, of both, and of neither."""
    root = tmp_path_factory.mktemp("outer")
    targets = [("embed_tokens", "q_proj"), ("lm_head",), ("embed_tokens", "lm_head"), ("down_proj",)]
    with quiet_peft():
        return [
            pico_adapter(root / str(seed), seed=seed, rank=2 + seed, target_modules=modules)
            for seed, modules in enumerate(targets)
        ]


@each_rule
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_experts_of_the_embedding_and_the_output_layer_are_those_of_the_slow_loop(
    rule: Literal["drop", "renormalise"], tied: bool, outer_folders: list[Path], token_ids: Tensor
) -> None:
    def base() -> Any:
        return pico_llama(tie_word_embeddings=tied)

    config = XLoraConfig(layerwise_scalings=True, absent_experts=rule, scaling_pass_value=0.4)
    adapters = dict(zip(("in", "out", "both", "none"), outer_folders, strict=True))
    model = XLoraModel.from_adapters(base(), adapters, config)

    with torch.no_grad():
        found, plain = model(token_ids).logits, base()(token_ids).logits
        last = model(token_ids, logits_to_keep=2).logits
        with model.disabled():
            assert torch.equal(model(token_ids).logits, plain)
    slow, _ = slow_logits(base(), outer_folders, model.head, model.config, token_ids)

    assert next(iter(model.layers)) == "model.embed_tokens"
    assert list(model.layers)[-1] == "lm_head"
    assert_close(found, slow)
    assert_close(last, slow[:, -2:])
    assert (found - plain).abs().max() > 0.1


@each_rule
def test_padding_on_either_side_changes_no_logits_whichever_layers_experts_touch(
    rule: Literal["drop", "renormalise"], outer_folders: list[Path], token_ids: Tensor
) -> None:
    config = XLoraConfig(layerwise_scalings=True, absent_experts=rule, scaling_pass_value=0.4)
    adapters = dict(zip(("in", "out", "both", "none"), outer_folders, strict=True))
    model = XLoraModel.from_adapters(pico_llama(), adapters, config)
    short, pad = token_ids[:1, :6], torch.zeros(1, 3, dtype=torch.long)

    with torch.no_grad():
        alone = model(short).logits
        for padded, real in (
            (torch.cat([pad, short], 1), slice(3, 9)),
            (torch.cat([short, pad], 1), slice(0, 6)),
        ):
            mask = torch.zeros(1, 9, dtype=torch.long)
            mask[:, real] = 1
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            assert_close(model(padded, attention_mask=mask, position_ids=positions).logits[:, real], alone)
