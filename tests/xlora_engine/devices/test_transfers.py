"""No pass makes a tensor on another device than its own, or waits for a value: shown on the meta device.

It holds no values, so that whoever asks for one fails as it would wait for a GPU; and an operation on tensors
of two devices, which a GPU refuses and the meta device may not, is found by listening to all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.pico import pico_adapter, pico_llama
from tests.xlora_engine.mixture.test_head import head_of
from tests.xlora_engine.peft_reference import quiet_peft
from xlora_engine.config import XLoraConfig
from xlora_engine.decoding.drafted import DraftedForwards
from xlora_engine.decoding.joint_cache import JointCache
from xlora_engine.decoding.prefetched import PrefetchedDecoding
from xlora_engine.decoding.ragged_cache import RaggedCache
from xlora_engine.devices.host_copy import upload
from xlora_engine.model import XLoraModel

META = torch.device("meta")
#: What may move a tensor from one device to another.
MOVES = {"aten._to_copy.default", "aten.copy_.default"}


class Devices(TorchDispatchMode):
    """Notes the operations that saw tensors of several devices, and all devices of what they gave."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.mixed: list[str] = []
        self.given: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if str(func) == "aten.lift_fresh.default":  # Python's numbers, on the host before they are uploaded
            return out
        # A GPU takes single values from the processor, as it takes Python's.
        found = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dim() > 0}
        if len(found) > 1 and str(func) not in MOVES:
            self.mixed.append(str(func))
        self.given |= {t.device.type for t in tree_leaves(out) if isinstance(t, Tensor)}
        return out


class Uploads(TorchFunctionMode):
    """Notes the calls that carry something from the host to a device and wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        out = func(*args, **given)
        if isinstance(out, Tensor) and out.is_meta and out.numel() and not given.get("non_blocking"):
            is_literal = func in (torch.tensor, torch.as_tensor)
            if is_literal or any(isinstance(arg, Tensor) and not arg.is_meta for arg in args[:1]):
                self.waiting.append(str(func))
        return out


@contextmanager
def all_on_meta() -> Iterator[None]:
    with Devices() as devices, Uploads() as uploads:
        yield
    assert devices.given == {"meta"}
    assert not devices.mixed
    assert not uploads.waiting


def test_what_leaves_the_device_is_noticed() -> None:
    here, there = torch.ones(2), torch.ones(2, device=META)

    with pytest.raises(AssertionError), all_on_meta():
        torch.zeros(1)
    with Devices() as devices:
        there.index_select(0, here.long())
    assert devices.mixed == ["aten.index_select.default"]
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        there.sum().item()


def test_what_waits_for_the_device_is_noticed() -> None:
    with Uploads() as uploads:
        torch.tensor([1], device=META)
        torch.as_tensor([1], device=META)
        torch.ones(1).to(META)
        upload([1], META)
        upload(torch.ones(1), META)
    assert len(uploads.waiting) == 3


@pytest.fixture(scope="module")
def on_meta(tmp_path_factory: pytest.TempPathFactory) -> XLoraModel:
    """A mixture that uses all there is: experts of all kinds of layers, some absent, layerwise."""
    root = tmp_path_factory.mktemp("experts")
    base = pico_llama()
    # Torch's attention would be asked by `transformers` whether a mask hides anything at all.
    base.set_attn_implementation("eager")
    with quiet_peft():
        experts = {
            "all": pico_adapter(root / "a", seed=1, target_modules=("q_proj", "embed_tokens", "lm_head")),
            "few": pico_adapter(root / "b", seed=2, rank=3, target_modules=("q_proj", "k_proj", "down_proj")),
        }
    config = XLoraConfig(layerwise_scalings=True, absent_experts="renormalise", use_trainable_adapters=True)
    return XLoraModel.from_adapters(base, experts, config).to(META)


def ids(batch_size: int) -> dict[str, Tensor]:
    """Tokens and their mask; without one, `transformers` looks for several texts in one sequence."""
    tokens = torch.ones(batch_size, 9, dtype=torch.long, device=META)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def forward(model: XLoraModel) -> None:
    model(**ids(2))
    model(**ids(2))


def with_a_cache(model: XLoraModel) -> None:
    cache = model(**ids(2), use_cache=True).cache
    mask = torch.ones(2, 10, device=META)
    model(ids(2)["input_ids"][:, :1], attention_mask=mask, cache=cache)


def constant(model: XLoraModel) -> None:
    with model.fixed_scalings(model.constant_scalings([0.3, 0.7])):
        model(**ids(2))


def trained(model: XLoraModel, settings: Mapping[str, Any] | None = None) -> None:
    if settings is not None:
        model.gradient_checkpointing_enable(settings)
    model.train()
    model(**ids(2), labels=ids(2)["input_ids"]).loss.backward()
    model.eval()
    model.gradient_checkpointing_disable()


@torch.no_grad()
def prefetched(model: XLoraModel) -> None:
    prompt = ids(2)
    cache = model(**prompt, use_cache=True).cache
    tokens, positions = prompt["input_ids"][:, 0], torch.arange(9, device=META).repeat(2, 1)
    joint = JointCache(cache, most_steps=8)
    state = PrefetchedDecoding(model, joint, prompt["attention_mask"], positions)
    logits = state.correct(tokens, tokens.bool(), torch.empty(2, 259, device=META))
    for _ in range(2):
        guess = logits.argmax(-1)
        _, logits = state.step(tokens, guess)
        logits = state.correct(tokens, tokens != guess, logits)
    joint.give_back()


@torch.no_grad()
def drafted(model: XLoraModel) -> None:
    prompt = ids(1)
    cache = RaggedCache(model(**prompt, use_cache=True).cache, prompt["attention_mask"], META)
    forwards = DraftedForwards(model, cache, torch.full((1, 1), 9, device=META))
    forwards.accept()
    forwards.scale([3, 4, 5])
    forwards.step([3, 4], [5, 6, 7])
    forwards.accept()
    forwards.step([4], [5])
    forwards.close()


PASSES: dict[str, Callable[[XLoraModel], None]] = {
    "forward": forward,
    "with a cache": with_a_cache,
    "constant scalings": constant,
    "training": trained,
    "recomputed": lambda model: trained(model, {"use_reentrant": False}),
    "recomputed, reentrant": lambda model: trained(model, {"use_reentrant": True}),
    "prefetched": prefetched,
    "drafted": drafted,
}


@pytest.mark.parametrize("passed", PASSES)
def test_a_pass_stays_on_its_device_and_waits_for_no_value(passed: str, on_meta: XLoraModel) -> None:
    with all_on_meta():
        PASSES[passed](on_meta)


def test_a_head_reads_hidden_states_of_another_device() -> None:
    """A base model that is spread over devices ends on another than it begins on."""
    head = head_of(layerwise_scalings=True).to(META)

    with Devices() as devices:
        assert head(torch.randn(1, 2, 8)).device == META
    assert not devices.mixed


def test_keys_may_be_on_another_device_than_the_mask(on_meta: XLoraModel) -> None:
    with torch.no_grad():
        held = on_meta(**ids(1), use_cache=True).cache

    with Devices() as devices:
        cache = RaggedCache(held, torch.ones(1, 9, dtype=torch.long), torch.device("cpu"))
        cache.begin_joint(1, 1)
        cache.give_back()
    assert not devices.mixed
