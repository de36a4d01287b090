"""What an X-LoRA model is made of: its parts alone, its base untouched, nothing but the head trained."""

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import LlamaModel

from tests.pico import pico_adapter, pico_llama
from tests.xlora_engine.conftest import Mixture
from tests.xlora_engine.peft_reference import peft_xlora, quiet_peft
from xlora_engine.config import XLoraConfig
from xlora_engine.errors import BaseUnsupported, ConfigInvalid, ExpertMismatch
from xlora_engine.mixture.layer import MixtureLayer
from xlora_engine.model import XLoraModel


def peft_alone(folder: Path, token_ids: Tensor) -> Tensor:
    """Logits of one adapter in PEFT."""
    with quiet_peft(), warnings.catch_warnings():
        model = PeftModel.from_pretrained(pico_llama(), str(folder))
    with torch.no_grad():
        logits: Tensor = model(input_ids=token_ids).logits
    return logits


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_hot_scalings_are_that_adapter_alone(
    position: int, mixture: Mixture, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = mixture()
    one_hot = model.constant_scalings([float(i == position) for i in range(3)])
    alone = peft_alone(list(expert_folders.values())[position], token_ids)

    with torch.no_grad():
        torch.testing.assert_close(
            model.mixture_pass(one_hot, input_ids=token_ids).logits, alone, rtol=0, atol=2e-5
        )
        with model.fixed_scalings(one_hot):
            torch.testing.assert_close(model(token_ids).logits, alone, rtol=0, atol=2e-5)


def test_zero_scalings_are_the_base_model(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()

    out = model.mixture_pass(model.constant_scalings([0.0, 0.0, 0.0]), input_ids=token_ids)

    torch.testing.assert_close(out.logits, pico_llama()(token_ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_disabled_model_is_its_base_bit_for_bit(
    dtype: torch.dtype, expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    def base() -> Any:
        return nn.Module.to(pico_llama(), dtype)

    plain = base()
    model = XLoraModel.from_adapters(base(), expert_folders)

    with model.disabled():
        out = model(token_ids, labels=token_ids)
        generated = model.generate(token_ids, max_new_tokens=5, do_sample=False)

    assert torch.equal(out.logits, plain(token_ids).logits)
    assert torch.equal(out.loss, plain(token_ids, labels=token_ids).loss)
    assert torch.equal(generated, plain.generate(token_ids, max_new_tokens=5, do_sample=False))
    assert not torch.equal(model(token_ids).logits, out.logits)


def test_disabling_ends_even_if_the_block_raises(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    expected = model(token_ids).logits

    with pytest.raises(ZeroDivisionError), model.disabled():
        raise ZeroDivisionError

    assert torch.equal(model(token_ids).logits, expected)


def test_only_the_head_is_trained_whatever_is_done_with_the_model(
    mixture: Mixture, token_ids: Tensor, tmp_path: Path
) -> None:
    model = mixture()
    head = {id(parameter) for parameter in model.head.parameters()}
    frozen = {name: p.clone() for name, p in model.named_parameters() if id(p) not in head}

    def check(after: str) -> None:
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        graded = {id(p) for p in model.parameters() if p.grad is not None}
        assert trained == head, after
        assert graded <= head, after

    check("construction")
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        model.train()
        model(token_ids, labels=token_ids).loss.backward()
        check("backward")
        assert {id(p) for p in model.parameters() if p.grad is not None} == head
        optimiser.step()
        model.eval()
        model.generate(token_ids, max_new_tokens=2)
        check("generate")
        with model.disabled():
            model(token_ids)
        check("disabled")
        model.save_pretrained(tmp_path / "saved")
        check("save")
    for name, before in frozen.items():
        assert torch.equal(dict(model.named_parameters())[name], before), name


def backward(model: XLoraModel, token_ids: Tensor) -> None:
    model(token_ids, labels=token_ids).loss.backward()


def recomputed(model: XLoraModel, token_ids: Tensor, *, reentrant: bool) -> None:
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    backward(model, token_ids)
    model.gradient_checkpointing_disable()


def disabled(model: XLoraModel, token_ids: Tensor) -> None:
    with model.disabled():
        model(token_ids)
        model.generate(token_ids, max_new_tokens=2)


def weighed_by_hand(model: XLoraModel, token_ids: Tensor) -> None:
    uniform = model.constant_scalings([1 / 3] * 3)
    model.mixture_pass(uniform, input_ids=token_ids)
    with model.fixed_scalings(uniform):
        model(token_ids)
        model.generate(token_ids, max_new_tokens=2)


def interrupted(model: XLoraModel, token_ids: Tensor) -> None:
    with pytest.raises(ZeroDivisionError), model.disabled():
        raise ZeroDivisionError


def saved(model: XLoraModel, token_ids: Tensor) -> None:
    with TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "saved")


#: Every kind of call that a model of experts answers.
CALLS: dict[str, Callable[[XLoraModel, Tensor], object]] = {
    "forward": lambda model, ids: model(ids),
    "forward with a cache": lambda model, ids: model(ids, use_cache=True),
    "scaling pass": lambda model, ids: model.scaling_pass(ids),
    "scalings by hand": weighed_by_hand,
    "greedy": lambda model, ids: model.generate(ids, max_new_tokens=2, do_sample=False),
    "sampling": lambda model, ids: model.generate(ids, max_new_tokens=2, do_sample=True),
    "beams": lambda model, ids: model.generate(ids, max_new_tokens=2, num_beams=2),
    "disabled": disabled,
    "interrupted": interrupted,
    "train": lambda model, _: model.train(),
    "eval": lambda model, _: model.train().eval(),
    "backward": backward,
    "recomputed": partial(recomputed, reentrant=False),
    "recomputed, reentrant": partial(recomputed, reentrant=True),
    "save": saved,
}


@pytest.mark.parametrize("experts_train", [False, True], ids=["head", "head and experts"])
@pytest.mark.parametrize("call", CALLS)
def test_trained_parameters_are_found_by_identity_and_no_call_changes_them(
    call: str, experts_train: bool, mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture(use_trainable_adapters=experts_train, scaling_pass_value=0.2)
    trained = {id(p) for p in model.head.parameters()}
    if experts_train:
        trained |= {id(p) for layer in model.layers.values() for p in (layer.down.weight, layer.up)}
    before = {name: (p, p.detach().clone()) for name, p in model.named_parameters()}

    for _ in range(2):
        CALLS[call](model, token_ids)

    assert {id(p) for p in model.parameters() if p.requires_grad} == trained
    assert {id(p) for p in model.parameters() if p.grad is not None} <= trained
    assert not any(module.training for module in model.base.modules())
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0], name
        assert torch.equal(parameter, before[name][1]), name


def test_training_after_inference_mode_gives_the_same_gradients(mixture: Mixture, token_ids: Tensor) -> None:
    fresh, asked = (mixture(xlora_dropout_p=0.0, use_trainable_adapters=True) for _ in range(2))
    with torch.inference_mode():
        asked(token_ids)

    for model in (fresh, asked):
        model.train()
        backward(model, token_ids)

    for ours, theirs in zip(asked.parameters(), fresh.parameters(), strict=True):
        assert (ours.grad is None) is (theirs.grad is None)
        assert ours.grad is None or theirs.grad is None or torch.equal(ours.grad, theirs.grad)


def test_trainable_experts_are_trained_with_the_head_and_the_base_is_not(
    mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture(use_trainable_adapters=True)

    model(token_ids, labels=token_ids).loss.backward()

    own = {id(p) for layer in model.layers.values() for p in (layer.down.weight, layer.up)}
    own |= {id(p) for p in model.head.parameters()}
    assert {id(p) for p in model.parameters() if p.requires_grad} == own
    assert {id(p) for p in model.parameters() if p.grad is not None} == own


def test_parameters_are_counted_as_peft_counts_those_of_base_experts_and_head(
    mixture: Mixture, expert_folders: dict[str, Path]
) -> None:
    for trains in (False, True):
        model = mixture(use_trainable_adapters=trains)
        theirs = peft_xlora(pico_llama(), list(expert_folders.values()), model.config, model.head)

        learn, every = model.get_nb_trainable_parameters()

        assert every == sum(p.numel() for p in theirs.parameters())
        assert learn == sum(p.numel() for p in theirs.parameters() if p.requires_grad)


def test_training_mode_reaches_the_head_alone(mixture: Mixture) -> None:
    model = mixture()
    assert not model.training

    model.train()

    assert model.head.training
    assert not any(module.training for module in model.base.modules())


def test_a_new_model_answers_the_same_twice_because_it_starts_in_eval_mode(
    expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    model = XLoraModel.from_adapters(pico_llama(), expert_folders, XLoraConfig(xlora_depth=2))

    assert torch.equal(model(token_ids).logits, model(token_ids).logits)


def test_the_scaling_pass_keeps_no_gradient_and_never_asks_the_output_layer(
    mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture()
    asked: list[object] = []
    model.base.get_output_embeddings().register_forward_hook(lambda *_: asked.append(None))

    hidden = model.scaling_pass(token_ids)

    assert not asked
    assert not hidden.requires_grad
    plain = pico_llama()(token_ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(hidden, plain)


def test_the_two_passes_by_hand_are_the_forward(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    scalings = model.head(model.scaling_pass(token_ids))

    by_hand = model.mixture_pass(scalings, input_ids=token_ids).logits
    assert by_hand is not None
    assert torch.equal(by_hand, model(token_ids).logits)


def test_the_output_holds_what_was_asked_for(mixture: Mixture, token_ids: Tensor) -> None:
    out = mixture()(token_ids, labels=token_ids, output_hidden_states=True, logits_to_keep=0)

    assert out.loss.dim() == 0
    assert out.logits.shape == (2, 9, 259)
    assert out.scalings.shape == (2, 9, 12, 3)
    assert len(out.hidden_states) == 3


def test_a_plain_tuple_is_refused(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()

    for way in (nullcontext(), model.disabled()):
        with way, pytest.raises(ConfigInvalid, match="return_dict must be true or left out, got False"):
            model(token_ids, return_dict=False)


def test_pictures_are_refused_because_one_pass_alone_would_see_them(
    mixture: Mixture, token_ids: Tensor
) -> None:
    model, picture = mixture(), torch.zeros(1, 3, 4, 4)

    with pytest.raises(
        ConfigInvalid, match="pixel_values must be left out: the scaling pass takes only text"
    ):
        model(token_ids, pixel_values=picture)
    with model.disabled():
        model(token_ids, pixel_values=picture)
    counted = model(token_ids, labels=token_ids, num_items_in_batch=torch.tensor(32)).loss
    assert counted.item() == pytest.approx(model(token_ids, labels=token_ids).loss.item() / 2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_that_is_cast_keeps_head_and_scales_in_float32_at_least(
    dtype: torch.dtype, mixture: Mixture, token_ids: Tensor
) -> None:
    model, exact = mixture(), mixture()
    few = torch.promote_types(dtype, torch.float32)

    model.to(dtype)

    assert model.dtype == model(token_ids).logits.dtype == dtype
    for ours, theirs in zip(model.head.parameters(), exact.head.parameters(), strict=True):
        assert ours.dtype == few
        assert torch.equal(ours, theirs.to(few))
    for path, layer in model.layers.items():
        assert layer.up.dtype == dtype
        assert torch.equal(layer.down.scale, exact.layers[path].down.scale.to(few))
    optimiser = torch.optim.SGD(model.head.parameters(), lr=1.0)
    model(token_ids, labels=token_ids).loss.backward()
    optimiser.step()
    assert not torch.equal(next(model.head.parameters()), next(exact.head.parameters()))


def test_a_copy_of_a_model_is_a_model_of_its_own(mixture: Mixture, token_ids: Tensor) -> None:
    model, expected = mixture(), mixture()(token_ids).logits
    model(token_ids)
    file = BytesIO()
    torch.save(model, file)
    file.seek(0)

    copies = [copy.deepcopy(model), torch.load(file, weights_only=False)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()

    for one in copies:
        assert torch.equal(one(token_ids).logits, expected)


def test_a_seed_decides_the_head(expert_folders: dict[str, Path]) -> None:
    def first_weight(seed: int) -> Tensor:
        model = XLoraModel.from_adapters(pico_llama(), expert_folders, seed=seed)
        return next(model.head.parameters())

    assert torch.equal(first_weight(1), first_weight(1))
    assert not torch.equal(first_weight(1), first_weight(2))


def test_names_and_width_come_from_experts_and_base(expert_folders: dict[str, Path]) -> None:
    model = XLoraModel.from_adapters(pico_llama(), expert_folders)

    assert model.config.adapters == ("bio", "protein.v2", "mat-3")
    assert model.config.hidden_size == 32


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"hidden_size": 64}, "hidden_size"),
        ({"adapters": ("a", "b", "c")}, "adapters"),
        ({"adapters": ("protein.v2", "bio", "mat-3")}, "adapters"),
        ({"top_k_lora": 4}, "top_k_lora"),
    ],
)
def test_a_configuration_that_contradicts_base_or_experts_is_refused(
    fields: dict[str, Any], at_fault: str, expert_folders: dict[str, Path]
) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        XLoraModel.from_adapters(pico_llama(), expert_folders, XLoraConfig(**fields))
    assert refused.value.field == at_fault


def test_a_model_needs_an_expert() -> None:
    with pytest.raises(ConfigInvalid, match="at least one expert"):
        XLoraModel.from_adapters(pico_llama(), {})


def test_a_base_without_an_output_layer_is_refused(expert_folders: dict[str, Path]) -> None:
    with pytest.raises(BaseUnsupported, match="LlamaModel"):
        XLoraModel.from_adapters(LlamaModel(pico_llama().config), expert_folders)


def test_a_base_that_holds_adapters_already_is_refused(
    expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    base, plain = pico_llama(), pico_llama()(token_ids).logits
    with quiet_peft():
        theirs = PeftModel.from_pretrained(base, str(expert_folders["bio"]))
    for given in (base, theirs):
        with pytest.raises(BaseUnsupported, match=r"of another model with adapters.*unload\(\) first"):
            XLoraModel.from_adapters(given, expert_folders)
    theirs.unload()

    first = XLoraModel.from_adapters(base, expert_folders)
    expected = first(token_ids).logits
    with pytest.raises(BaseUnsupported, match="q_proj' is a MixtureLayer of another model"):
        XLoraModel.from_adapters(base, expert_folders)
    assert torch.equal(first(token_ids).logits, expected)
    assert torch.equal(first.unload()(token_ids).logits, plain)
    assert torch.equal(XLoraModel.from_adapters(base, expert_folders)(token_ids).logits, expected)


def test_an_expert_that_does_not_fit_leaves_the_base_as_it_was(
    expert_folders: dict[str, Path], token_ids: Tensor
) -> None:
    base = pico_llama(num_hidden_layers=1)
    before = base(token_ids).logits

    with pytest.raises(ExpertMismatch):
        XLoraModel.from_adapters(base, expert_folders)

    assert not any(isinstance(module, MixtureLayer) for module in base.modules())
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert torch.equal(base(token_ids).logits, before)


def test_unloading_gives_the_base_back(mixture: Mixture, token_ids: Tensor) -> None:
    plain = pico_llama()

    base = mixture().unload()

    assert list(dict(base.named_modules())) == list(dict(plain.named_modules()))
    assert torch.equal(base(token_ids).logits, plain(token_ids).logits)


@pytest.mark.parametrize("values", [[1.0], [1.0, 0.0], [0.25] * 4])
def test_constant_scalings_need_a_value_for_each_expert(values: list[float], mixture: Mixture) -> None:
    with pytest.raises(ConfigInvalid, match="3 values, one for each expert"):
        mixture().constant_scalings(values)


@pytest.mark.parametrize(
    ("shape", "allowed"),
    [
        ((2, 9, 15, 3), "of 1 or 12 layers and 3 experts"),
        ((2, 9, 12, 4), "of 1 or 12 layers and 3 experts"),
        ((1, 1, 3), "of 1 or 12 layers and 3 experts"),
        ((2, 5, 1, 3), "for 1 or 2 sequences of 1 or 9 tokens"),
        ((2, 14, 1, 3), "for 1 or 2 sequences of 1 or 9 tokens"),
        ((4, 1, 1, 3), "for 1 or 2 sequences of 1 or 9 tokens"),
    ],
    ids=str,
)
def test_scalings_of_another_shape_are_refused(
    shape: tuple[int, ...], allowed: str, mixture: Mixture, token_ids: Tensor
) -> None:
    model, scalings = mixture(), torch.full(shape, 0.5)

    with pytest.raises(ConfigInvalid, match=allowed):
        model.mixture_pass(scalings, input_ids=token_ids)
    with pytest.raises(ConfigInvalid, match=allowed), model.fixed_scalings(scalings):
        model(inputs_embeds=model.base.get_input_embeddings()(token_ids))
    assert model.context.scalings is None


@pytest.mark.parametrize("flattens", [False, True], ids=["", "a base that flattens its batch"])
@pytest.mark.parametrize("shape", [(2, 1, 12, 3), (1, 9, 12, 3), (1, 1, 1, 3), (2, 1, 1, 3)], ids=str)
def test_scalings_of_each_sequence_or_each_token_weigh_them_all(
    shape: tuple[int, ...], flattens: bool, mixture: Mixture, token_ids: Tensor
) -> None:
    model, scalings = mixture(), torch.rand(shape, generator=torch.Generator().manual_seed(1))
    if flattens:
        for block in model.base.model.layers:
            block.mlp.forward = partial(_vector_by_vector, block.mlp.forward)
    whole = scalings.expand(2, 9, 12, 3)

    with torch.no_grad():
        expected: Any = model.mixture_pass(whole, input_ids=token_ids).logits
        found: Any = model.mixture_pass(scalings, input_ids=token_ids).logits
        with model.fixed_scalings(scalings):
            torch.testing.assert_close(model(token_ids).logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def _vector_by_vector(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return forward(x.flatten(0, 1)).view(x.shape)


@pytest.fixture(scope="module")
def output_experts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("output")
    return {
        "a": pico_adapter(root / "a", seed=1, target_modules=("lm_head", "q_proj")),
        "b": pico_adapter(root / "b", seed=2, target_modules=("v_proj",)),
    }


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_an_expert_of_the_output_layer_is_gated_by_the_tokens_kept(
    kept: int, output_experts: dict[str, Path], token_ids: Tensor
) -> None:
    config = XLoraConfig(layerwise_scalings=True)
    model = XLoraModel.from_adapters(pico_llama(), output_experts, config)

    with torch.no_grad():
        found = model(token_ids, logits_to_keep=kept).logits
        torch.testing.assert_close(found, model(token_ids).logits[:, -kept:])
        cached = model.generate(token_ids, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    uncached = model.generate(token_ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(cached, uncached)


def test_picked_logits_are_refused_where_an_expert_changes_the_output_layer(
    output_experts: dict[str, Path], token_ids: Tensor, mixture: Mixture
) -> None:
    picked = torch.tensor([2, 4])
    model = XLoraModel.from_adapters(pico_llama(), output_experts)

    with pytest.raises(ConfigInvalid, match="logits_to_keep must be a number"):
        model(token_ids, logits_to_keep=picked)
    other = mixture()
    torch.testing.assert_close(
        other(token_ids, logits_to_keep=picked).logits, other(token_ids).logits[:, picked]
    )
