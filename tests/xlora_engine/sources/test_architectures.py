"""On every architecture of the list, a mixture is that of a slow loop and of PEFT, however it is computed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from tests.pico import pico_adapter
from tests.small_bases import SMALL_BASES, VOCABULARY, SmallBase
from tests.xlora_engine.examples_with_shared_prefix import (
    TOKENS_ONCE,
    TOKENS_WHOLE,
    assert_same_step,
    examples_with_shared_prefix,
    step,
)
from tests.xlora_engine.peft_reference import peft_logits, peft_xlora, quiet_peft
from tests.xlora_engine.slow_reference import slow_logits
from xlora_engine.config import XLoraConfig
from xlora_engine.data.shared_prefix import can_share
from xlora_engine.errors import BaseUnsupported
from xlora_engine.model import XLoraModel
from xlora_engine.sources.architectures import PROVEN, UnprovenArchitecture

#: Largest absolute difference of float32 logits, which are of size 5: additions come in another order.
TOLERANCE = 3e-5
#: Mean absolute difference of a token's bfloat16 logits, of 8 bits: about one rounding of the logits
#: themselves. For the median token, because a mixture-of-experts base chooses other experts by a rounding.
TOLERANCE_BFLOAT16 = 0.03

CONFIGS: dict[str, dict[str, Any]] = {
    "layerwise": {"layerwise_scalings": True},
    "scaling pass of 0.4": {"scaling_pass_value": 0.4, "xlora_depth": 2, "xlora_size": 8},
}
CASES = [(name, config) for name in SMALL_BASES for config in CONFIGS]
WITH_PEFT = [(name, config) for name, config in CASES if SMALL_BASES[name].peft]

#: Builds a mixture on a small base by its name; keyword arguments are `XLoraConfig` fields.
Build = Callable[..., XLoraModel]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    """Three adapters of a small base, of mixed ranks and targets, written at the first call."""
    root = tmp_path_factory.mktemp("small")
    written: dict[str, dict[str, Path]] = {}

    def of(name: str) -> dict[str, Path]:
        if name not in written:
            written[name] = _write(SMALL_BASES[name], root / name)
        return written[name]

    return of


def _write(small: SmallBase, root: Path) -> dict[str, Path]:
    base: Any = small.build()
    with quiet_peft():
        return {
            expert: pico_adapter(
                root / expert, seed=seed, rank=2 + seed, target_modules=targets, base=base, **small.lora
            )
            for seed, (expert, targets) in enumerate(zip(("bio", "law", "art"), small.targets, strict=True))
        }


@pytest.fixture(scope="module")
def build(folders: Callable[[str], dict[str, Path]]) -> Build:
    def of(name: str, *, spread: float = 4.0, **config: Any) -> XLoraModel:
        fields = {"xlora_dropout_p": 0.0} | config
        model = XLoraModel.from_adapters(SMALL_BASES[name].build(), folders(name), XLoraConfig(**fields))
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.mul_(spread)
        return model

    return of


@pytest.fixture(scope="module")
def prompts() -> Tensor:
    """Two sequences of nine tokens, none of them special."""
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_the_list_of_proven_architectures_is_what_is_tested_here() -> None:
    assert {small.model for small in SMALL_BASES.values()} == PROVEN


@pytest.mark.parametrize(("name", "config"), CASES)
def test_logits_are_those_of_the_slow_loop(
    name: str, config: str, build: Build, folders: Any, prompts: Tensor
) -> None:
    model = build(name, **CONFIGS[config])
    base = SMALL_BASES[name].build()

    with torch.no_grad():
        out, plain = model(prompts), base(prompts).logits
    slow, scalings = slow_logits(base, list(folders(name).values()), model.head, model.config, prompts)

    assert_close(out.logits, slow)
    assert_close(out.scalings, scalings)
    assert (out.logits - plain).abs().max() > 0.1, "the experts must have an effect"
    assert out.scalings.std() > 0.1, "the head must decide"


@pytest.mark.parametrize(("name", "config"), WITH_PEFT)
def test_logits_are_those_of_peft(
    name: str, config: str, build: Build, folders: Any, prompts: Tensor
) -> None:
    model = build(name, **CONFIGS[config])
    reference = peft_xlora(SMALL_BASES[name].build(), list(folders(name).values()), model.config, model.head)

    with torch.no_grad():
        assert_close(model(prompts).logits, peft_logits(reference, prompts)[0])


@pytest.mark.parametrize("name", SMALL_BASES)
def test_bfloat16_logits_are_those_of_the_slow_loop_and_of_peft(
    name: str, folders: Any, prompts: Tensor
) -> None:
    def base() -> Any:
        return nn.Module.to(SMALL_BASES[name].build(), torch.bfloat16)

    def difference(ours: Tensor, theirs: Tensor) -> float:
        return (ours.float() - theirs.float()).abs().mean(-1).median().item()

    paths = list(folders(name).values())
    model = XLoraModel.from_adapters(base(), folders(name), XLoraConfig(layerwise_scalings=True))
    with torch.no_grad():
        logits, plain = model(prompts).logits, base()(prompts).logits
        cache = model.new_cache()
        parts = [model(part, cache=cache, use_cache=True).logits for part in prompts.split([5, 3, 1], 1)]
    slow, _ = slow_logits(base(), paths, model.head, model.config, prompts)

    assert logits.dtype == torch.bfloat16
    assert difference(logits, slow) < TOLERANCE_BFLOAT16
    assert difference(logits, torch.cat(parts, 1)) < TOLERANCE_BFLOAT16
    if SMALL_BASES[name].peft:
        theirs, _ = peft_logits(peft_xlora(base(), paths, model.config, model.head), prompts)
        assert difference(logits, theirs) < TOLERANCE_BFLOAT16
    assert difference(logits, plain) > 3 * TOLERANCE_BFLOAT16, "the experts must have an effect"


@pytest.mark.parametrize("name", SMALL_BASES)
def test_logits_with_a_cache_are_those_without(name: str, build: Build, prompts: Tensor) -> None:
    model = build(name, scaling_pass_value=0.4, layerwise_scalings=True)
    mask = torch.ones_like(prompts)
    mask[0, :2] = 0

    @torch.no_grad()
    def in_chunks(sizes: list[int]) -> Tensor:
        cache, parts, end = model.new_cache(), [], 0
        for size in sizes:
            start, end = end, end + size
            out = model(prompts[:, start:end], attention_mask=mask[:, :end], cache=cache, use_cache=True)
            parts.append(out.logits)
        return torch.cat(parts, 1)[mask.bool()]

    with torch.no_grad():
        expected = model(prompts, attention_mask=mask).logits[mask.bool()]
    # A recurrent state takes padding only with a token after it, in the base model too.
    for sizes in ([5, 1, 1, 1, 1], [4, 4, 1], [3, *[1] * 6]):
        assert_close(in_chunks(sizes), expected)


@pytest.mark.parametrize("asked", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", SMALL_BASES)
def test_left_padded_sequences_generate_the_same_alone_and_without_a_cache(
    name: str, asked: dict[str, Any], build: Build, prompts: Tensor
) -> None:
    model = build(name, layerwise_scalings=True)
    batch = prompts.clone()
    batch[0, :3] = 0

    def generate(tokens: Tensor, **more: Any) -> Tensor:
        out: Tensor = model.generate(
            tokens,
            attention_mask=(tokens != 0).long(),
            max_new_tokens=6,
            min_new_tokens=6,
            do_sample=False,
            **asked,
            **more,
        )
        return out[:, tokens.shape[1] :]

    together = generate(batch)

    assert torch.equal(together, generate(batch, use_cache=False))
    assert torch.equal(together[:1], generate(prompts[:1, 3:]))
    with model.disabled():
        assert not torch.equal(generate(batch), together), "the experts must have an effect"


@pytest.mark.parametrize("name", SMALL_BASES)
def test_a_disabled_or_unloaded_model_is_its_base_bit_for_bit(
    name: str, build: Build, prompts: Tensor
) -> None:
    base, model = SMALL_BASES[name].build(), build(name)

    with torch.no_grad():
        expected = base(prompts).logits
        assert not torch.equal(model(prompts).logits, expected)
        with model.disabled():
            assert torch.equal(model(prompts).logits, expected)
        restored = model.unload()
        assert torch.equal(restored(prompts).logits, expected)
    assert list(dict(restored.named_modules())) == list(dict(base.named_modules()))


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3-MoE"])
def test_a_mixture_of_experts_base_returns_its_router_logits(
    name: str, build: Build, prompts: Tensor
) -> None:
    asked: dict[str, Any] = {"labels": prompts, "output_router_logits": True}
    model, plain = build(name, xlora_dropout_p=0.0), SMALL_BASES[name].build()(prompts, **asked)

    with model.disabled():
        disabled = model(prompts, **asked)
    out = model(prompts, **asked)

    assert torch.equal(disabled.loss, plain.loss)
    assert torch.equal(disabled.aux_loss, plain.aux_loss)
    assert all(map(torch.equal, disabled.router_logits, plain.router_logits))
    assert len(out.router_logits) == len(plain.router_logits)
    assert not torch.equal(out.aux_loss, plain.aux_loss), "experts change what is routed"


@pytest.mark.parametrize("reentrant", [False, True], ids=["not reentrant", "reentrant"])
@pytest.mark.parametrize("name", SMALL_BASES)
def test_recomputed_gradients_are_those_kept(
    name: str, reentrant: bool, build: Build, prompts: Tensor
) -> None:
    def gradients(model: XLoraModel) -> dict[str, Tensor]:
        model.train()
        model(prompts, labels=prompts).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    fields = {"layerwise_scalings": True, "use_trainable_adapters": True, "spread": 1.0}
    expected, model = gradients(build(name, **fields)), build(name, **fields)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})

    found = gradients(model)

    assert found.keys() == expected.keys() != set()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-6)


def test_an_architecture_not_on_the_list_is_tried_with_a_warning_that_names_it(
    tmp_path: Path, prompts: Tensor
) -> None:
    fields = SMALL_BASES["Llama"].fields
    small = SmallBase(model="StableLmForCausalLM", config="StableLmConfig", fields=fields)
    adapters = _write(small, tmp_path)

    with pytest.warns(UnprovenArchitecture, match="StableLmForCausalLM is not among"):
        model = XLoraModel.from_adapters(small.build(), adapters, XLoraConfig(layerwise_scalings=True))

    slow, _ = slow_logits(small.build(), list(adapters.values()), model.head, model.config, prompts)
    assert_close(model(prompts).logits, slow)


def test_a_classifier_of_sequences_is_tried_too(folders: Any, prompts: Tensor, tmp_path: Path) -> None:
    fields = {**SMALL_BASES["Llama"].fields, "num_labels": 3}
    small = SmallBase(model="LlamaForSequenceClassification", config="LlamaConfig", fields=fields)
    experts, labels = folders("Llama"), torch.tensor([0, 2])

    with pytest.warns(UnprovenArchitecture, match="LlamaForSequenceClassification is not among"):
        model = XLoraModel.from_adapters(small.build(), experts, XLoraConfig(layerwise_scalings=True))
    model.save_pretrained(tmp_path / "saved")
    with pytest.warns(UnprovenArchitecture):
        again = XLoraModel.from_pretrained(tmp_path / "saved", small.build())

    out, base = model(prompts, labels=labels), small.build()
    slow, _ = slow_logits(base, list(experts.values()), model.head, model.config, prompts)
    assert out.logits.shape == (2, 3)
    assert_close(out.logits, slow)
    assert_close(out.loss, nn.functional.cross_entropy(slow, labels))
    assert torch.equal(again(prompts).logits, out.logits)
    assert (slow - base(prompts).logits).abs().max() > 0.01, "the experts must have an effect"


def test_a_base_with_an_encoder_is_refused(folders: Any) -> None:
    config = T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    base = T5ForConditionalGeneration(config)

    with pytest.raises(BaseUnsupported, match="T5ForConditionalGeneration has no decoder of its own"):
        XLoraModel.from_adapters(base, folders("Llama"))


@pytest.mark.parametrize("name", SMALL_BASES)
def test_a_training_step_that_runs_the_shared_prefix_once_is_that_of_whole_sequences(
    name: str, build: Build
) -> None:
    model = build(name, layerwise_scalings=True)
    examples, routed = examples_with_shared_prefix(model)

    once = step(model, examples, routed)

    shared = can_share(model.new_cache().mixture, left_padded=True)
    assert once.tokens == (TOKENS_ONCE if shared else TOKENS_WHOLE)
    assert_same_step(once, step(model, examples, replace(routed, shared=0)))
