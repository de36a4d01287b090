"""An adapter kept inactive on a prefix adds nothing there after any optimiser step, and learns elsewhere."""

from collections.abc import Iterator
from typing import cast

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers.cache_utils import Cache

from tests.pico import pico_llama
from tests.small_bases import SMALL_BASES
from xlora_engine.adapter_training.inactive_prefix import InactivePrefix
from xlora_engine.adapter_training.lora_injection import injected
from xlora_engine.adapter_training.training_batches import Batches
from xlora_engine.data.chat import EncodedExample
from xlora_engine.data.shared_prefix import repeated
from xlora_engine.errors import ConfigInvalid

PREFIX = (1, 5, 9)
#: What a pico model's narrowest input has room for.
ROOM = pico_llama().config.hidden_size // 8


@pytest.fixture
def adapted() -> Iterator[PeftModel]:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    with injected(pico_llama(), config, seed=0) as model:
        yield model


def factors(model: PeftModel, which: str) -> list[nn.Linear]:
    found = [module for name, module in model.named_modules() if f".{which}." in f".{name}."]
    return [module for module in found if isinstance(module, nn.Linear)]


@torch.no_grad()
def act(model: PeftModel) -> None:
    """Let the adapter act, as after some steps of training."""
    draw = torch.Generator().manual_seed(1)
    for layer in (*factors(model, "lora_A"), *factors(model, "lora_B")):
        layer.weight.add_(torch.randn(layer.weight.shape, generator=draw) * 0.2)


@torch.no_grad()
def added(model: PeftModel, token_ids: tuple[int, ...]) -> Tensor:
    """The largest change of each token's logits."""
    ids = torch.tensor([token_ids])
    with model.disable_adapter():
        plain = model(input_ids=ids).logits[0]
    changed: Tensor = (model(input_ids=ids).logits[0] - plain).abs().amax(-1)
    return changed


def test_after_any_step_nothing_is_added_on_the_prefix_and_something_after_it(adapted: PeftModel) -> None:
    inactive = InactivePrefix(adapted, PREFIX)
    act(adapted)
    assert added(adapted, (*PREFIX, 7, 3)).min() > 1e-2
    inactive.impose()
    changes = added(adapted, (*PREFIX, 7, 3))
    assert inactive.length == len(PREFIX)
    assert changes[: len(PREFIX)].max() < 1e-4
    assert changes[len(PREFIX) :].min() > 1e-2


def test_an_adapter_is_inactive_from_the_first_step_on(adapted: PeftModel) -> None:
    before = [down.weight.detach().clone() for down in factors(adapted, "lora_A")]
    InactivePrefix(adapted, PREFIX)
    after = [down.weight.detach() for down in factors(adapted, "lora_A")]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with torch.no_grad():
        for up in factors(adapted, "lora_B"):
            up.weight.fill_(0.1)
    assert added(adapted, PREFIX).max() < 1e-4


def test_imposing_twice_is_imposing_once(adapted: PeftModel) -> None:
    inactive = InactivePrefix(adapted, PREFIX)
    once = [down.weight.detach().clone() for down in factors(adapted, "lora_A")]
    inactive.impose()
    for down, weight in zip(factors(adapted, "lora_A"), once, strict=True):
        torch.testing.assert_close(down.weight, weight, rtol=0, atol=1e-6)


def test_of_a_long_prefix_an_eighth_of_the_narrowest_input_is_inactive(
    adapted: PeftModel,
) -> None:
    prefix = tuple(range(1, ROOM + 4))
    inactive = InactivePrefix(adapted, prefix)
    act(adapted)
    inactive.impose()
    changes = added(adapted, prefix)
    assert inactive.length == ROOM
    assert changes[:ROOM].max() < 1e-4
    assert changes[ROOM:].min() > 1e-2


def test_without_a_prefix_nothing_is_held(adapted: PeftModel) -> None:
    before = [down.weight.detach().clone() for down in factors(adapted, "lora_A")]
    inactive = InactivePrefix(adapted, ())
    inactive.impose()
    assert inactive.length == 0
    assert all(
        torch.equal(down.weight, weight)
        for down, weight in zip(factors(adapted, "lora_A"), before, strict=True)
    )


def test_the_mode_of_the_model_is_left_alone(adapted: PeftModel) -> None:
    adapted.train()
    InactivePrefix(adapted, PREFIX)
    assert adapted.training


EXAMPLES = [
    EncodedExample(token_ids=(1, 5, 9, 4, 8), prompt_length=4),
    EncodedExample(token_ids=(1, 5, 3, 8, 7, 6, 2), prompt_length=4),
]


def loss_and_gradients(model: PeftModel, prefix: Cache | None, *, cached: int) -> dict[str, Tensor]:
    """Of one batch: the loss, and the gradients of every factor B."""
    item = Batches(EXAMPLES, [[0, 1]], parts=1, pad_id=0, cached=cached)[0]
    given = {} if prefix is None else {"cache": repeated(prefix, len(EXAMPLES))}
    model.zero_grad()
    loss = model(**{**item, "use_cache": prefix is not None}, **given).loss
    loss.backward()
    ups = {name: weight for name, weight in model.named_parameters() if ".lora_B." in name}
    gradients = {name: cast("Tensor", weight.grad).clone() for name, weight in ups.items()}
    return {"loss": loss.detach(), **gradients}


#: Those with sliding windows, out of which padding would push the prefix, or with states that none repeats.
CANNOT_CONTINUE = {
    *("Mistral", "Mistral 3", "Qwen2", "StarCoder 2", "Llama 4"),
    *("Gemma 2", "Gemma 3", "Gemma 3 with pictures", "Gemma 4", "Gemma 4 with pictures"),
    *("Falcon-H1", "Qwen3.5"),
}


@pytest.mark.parametrize("name", SMALL_BASES)
def test_batches_that_continue_from_the_cache_give_the_gradients_of_whole_sequences(name: str) -> None:
    small = SMALL_BASES[name]
    config = LoraConfig(
        task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=list(small.targets[1]), **small.lora
    )
    with injected(small.build(), config, seed=0) as model:
        inactive = InactivePrefix(model, (1, 5))
        act(model)
        inactive.impose()
        assert inactive.length == 2
        assert (inactive.cache is None) is (name in CANNOT_CONTINUE)
        whole = loss_and_gradients(model, None, cached=0)
        if inactive.cache is not None:
            after = loss_and_gradients(model, inactive.cache, cached=2)
            torch.testing.assert_close(after, whole, rtol=1e-4, atol=1e-5)


def test_adapted_embeddings_are_refused_with_a_prefix() -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["embed_tokens", "q_proj"])
    with (
        injected(pico_llama(), config, seed=0) as model,
        pytest.raises(ConfigInvalid, match="off where embeddings are adapted"),
    ):
        InactivePrefix(model, PREFIX)
