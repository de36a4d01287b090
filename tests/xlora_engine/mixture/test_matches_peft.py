"""The engine's logits are PEFT's, and those of a slow loop over experts, in every mode PEFT gets right.

Left out, because PEFT differs from the paper there: top-k with a non-zero scaling pass (it also picks k
experts for the scaling pass, always the first ones) and a temperature with softmax over the top k (ignored).
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from tests.pico import pico_adapter, pico_llama
from tests.xlora_engine.conftest import Mixture
from tests.xlora_engine.peft_reference import peft_logits, peft_xlora, quiet_peft
from tests.xlora_engine.slow_reference import slow_logits
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel

#: Largest absolute difference of logits, which are of size 10. In float32 only the order of additions
#: differs; bfloat16 keeps 8 bits, and PEFT's head computes in it where the engine's computes in float32.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.15}

#: What each case changes from the defaults: depth 1, one gate for all layers, dropout 0.2, dense softmax.
MODES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "layerwise": {"layerwise_scalings": True},
    "depth 2": {"xlora_depth": 2, "layerwise_scalings": True},
    "depth 3 without dropout": {"xlora_depth": 3, "xlora_dropout_p": 0.0},
    "depth 2 without dropout, layerwise": {
        "xlora_depth": 2,
        "xlora_dropout_p": 0.0,
        "layerwise_scalings": True,
    },
    "temperature": {"softmax_temperature": 0.3, "layerwise_scalings": True},
    "raw logits": {"enable_softmax": False},
    "top 2": {"top_k_lora": 2, "layerwise_scalings": True},
    "top 1": {"top_k_lora": 1},
    "top 2 of raw logits": {"top_k_lora": 2, "enable_softmax": False},
    "top 2 with temperature": {"top_k_lora": 2, "softmax_temperature": 3.0},
    "softmax over the top 2": {"top_k_lora": 2, "enable_softmax": False, "enable_softmax_topk": True},
    "scaling pass of 1/n": {"scaling_pass_value": 1 / 3, "layerwise_scalings": True},
    "negative scaling pass": {"scaling_pass_value": -0.5, "xlora_depth": 2},
    "global weight": {"global_scaling_weight": 0.4, "layerwise_scalings": True},
    "global weight in both passes": {"global_scaling_weight": 1.7, "scaling_pass_value": 0.5},
    "trainable experts": {"use_trainable_adapters": True},
}


def difference(ours: Tensor, theirs: Tensor) -> float:
    return (ours.float() - theirs.float()).abs().max().item()


@pytest.mark.parametrize("mode", MODES)
def test_logits_are_those_of_peft_and_of_the_slow_loop(
    mode: str, mixture: Mixture, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    defaults = {"xlora_depth": 1, "layerwise_scalings": False}
    model = mixture(**(defaults | MODES[mode]))
    folders, head = list(expert_folders.values()), model.head

    out = model(token_ids)
    slow, scalings = slow_logits(pico_llama(), folders, head, model.config, token_ids)
    reference = peft_xlora(pico_llama(), folders, model.config, head)
    theirs, their_scalings = peft_logits(reference, token_ids)

    # Without a softmax the experts weigh more than 1 together, and rounding grows with what is added.
    tolerance = TOLERANCE[torch.float32] * max(1.0, out.scalings.abs().sum(-1).max().item())
    assert difference(out.logits, slow) < tolerance
    assert difference(out.scalings, scalings) < 1e-5
    assert difference(out.logits, theirs) < tolerance
    if model.config.top_k_lora is None:  # PEFT selects after it records
        assert difference(out.scalings.expand_as(their_scalings), their_scalings) < 1e-5
    with model.disabled():
        assert difference(out.logits, model(token_ids).logits) > 0.1, "the experts must have an effect"


def test_left_padded_logits_are_those_of_peft(
    mixture: Mixture, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = mixture()
    mask = torch.ones_like(token_ids)
    mask[0, :4] = 0
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {"attention_mask": mask, "position_ids": position_ids}

    reference = peft_xlora(pico_llama(), list(expert_folders.values()), model.config, model.head)
    theirs, _ = peft_logits(reference, token_ids, **inputs)

    seen = mask.bool()
    assert difference(model(token_ids, **inputs).logits[seen], theirs[seen]) < TOLERANCE[torch.float32]


def test_input_embeddings_give_the_logits_of_peft(
    mixture: Mixture, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = mixture()
    embeddings = model.base.get_input_embeddings()(token_ids)

    reference = peft_xlora(pico_llama(), list(expert_folders.values()), model.config, model.head)
    with torch.no_grad():
        theirs = reference(inputs_embeds=embeddings, use_cache=False).logits

    assert difference(model(inputs_embeds=embeddings).logits, theirs) < TOLERANCE[torch.float32]


def test_loss_is_that_of_peft(mixture: Mixture, expert_folders: dict[str, Path], token_ids: Tensor) -> None:
    model = mixture()

    reference = peft_xlora(pico_llama(), list(expert_folders.values()), model.config, model.head)
    with torch.no_grad():
        theirs = reference(input_ids=token_ids, labels=token_ids, use_cache=False).loss

    assert model(token_ids, labels=token_ids).loss.item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.fixture(scope="module")
def embedding_folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("embeddings")
    with quiet_peft():
        return [
            pico_adapter(root / "a", seed=4, target_modules=("embed_tokens", "q_proj")),
            pico_adapter(root / "b", seed=5, rank=7, target_modules=("embed_tokens",), use_rslora=True),
            pico_adapter(root / "c", seed=6, target_modules=("v_proj",)),
        ]


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_experts_of_the_embedding_give_the_logits_of_peft(
    value: float, embedding_folders: list[Path], token_ids: Tensor
) -> None:
    config = XLoraConfig(layerwise_scalings=True, scaling_pass_value=value)
    adapters = dict(zip(("a", "b", "c"), embedding_folders, strict=True))
    model = XLoraModel.from_adapters(pico_llama(), adapters, config)
    head = model.head

    ours = model(token_ids)
    slow, _ = slow_logits(pico_llama(), embedding_folders, head, model.config, token_ids)
    theirs, _ = peft_logits(peft_xlora(pico_llama(), embedding_folders, model.config, head), token_ids)

    assert next(iter(model.layers)) == "model.embed_tokens", "the embedding is numbered first"
    assert difference(ours.logits, slow) < TOLERANCE[torch.float32]
    assert difference(ours.logits, theirs) < TOLERANCE[torch.float32]


def test_bfloat16_logits_are_those_of_peft_to_its_eight_bits(
    expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    def base() -> LlamaForCausalLM:
        llama = pico_llama()
        torch.nn.Module.to(llama, torch.bfloat16)
        return llama

    config = XLoraConfig(xlora_depth=2, xlora_size=16, layerwise_scalings=True)
    model = XLoraModel.from_adapters(base(), expert_folders, config)

    reference = peft_xlora(base(), list(expert_folders.values()), model.config, model.head)
    theirs, _ = peft_logits(reference, token_ids)
    exact, _ = slow_logits(pico_llama(), list(expert_folders.values()), model.head, model.config, token_ids)

    ours = model(token_ids).logits
    assert ours.dtype == torch.bfloat16
    assert difference(ours, theirs) < TOLERANCE[torch.bfloat16]
    assert difference(ours, exact) < TOLERANCE[torch.bfloat16]


def test_gradients_of_the_head_are_those_of_peft(
    mixture: Mixture, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = mixture()
    reference = peft_xlora(pico_llama(), list(expert_folders.values()), model.config, model.head)

    model(token_ids, labels=token_ids).loss.backward()
    reference(input_ids=token_ids, labels=token_ids, use_cache=False).loss.backward()

    theirs = [p.grad for n, p in reference.named_parameters() if "internal_xlora_classifier" in n]
    for ours, their in zip(model.head.parameters(), theirs, strict=True):
        assert their is not None
        assert ours.grad is not None
        assert difference(ours.grad, their) < 1e-5 * max(1.0, their.abs().max().item())
