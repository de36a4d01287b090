"""Gates hold their promises for any logits: who is chosen, what it sums to, and what may not matter."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xlora_engine.config import XLoraConfig
from xlora_engine.mixture.gates import gate, keep_top_k, softmax_over_top_k, uneven_load

SOFTMAX = {"enable_softmax": True}
RAW = {"enable_softmax": False}
TOP_K_SOFTMAX = {"enable_softmax": False, "enable_softmax_topk": True}

each_kind = pytest.mark.parametrize("kind", [SOFTMAX, RAW, TOP_K_SOFTMAX], ids=["softmax", "raw", "top-k"])


@st.composite
def logits_of(draw: st.DrawFn) -> Tensor:
    """Logits [batch seq layer expert], of any size from tiny to 1e4, many of them equal."""
    shape = (3, draw(st.integers(2, 4)), 2, draw(st.integers(2, 6)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    size = draw(st.sampled_from([1.0, 1e-3, 30.0, 1e4]))
    levels = draw(st.sampled_from([1000, 2, 5]))
    values = torch.randint(-levels, levels + 1, shape, generator=generator) * (size / levels)
    return values.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))


@st.composite
def gated(draw: st.DrawFn, kind: dict[str, Any]) -> tuple[Tensor, XLoraConfig]:
    """Logits, and a configuration that gates them."""
    logits = draw(logits_of())
    experts = logits.shape[-1]
    k = draw(st.integers(2, experts) if kind is TOP_K_SOFTMAX else st.none() | st.integers(1, experts))
    temperature = 1.0 if kind is RAW else draw(st.sampled_from([1.0, 0.1, 7.0]))
    names = tuple(f"e{i}" for i in range(experts))
    return logits, XLoraConfig(adapters=names, top_k_lora=k, softmax_temperature=temperature, **kind)


@given(gated(SOFTMAX))
def test_a_softmax_is_never_negative_and_sums_to_1_before_selection(
    case: tuple[Tensor, XLoraConfig],
) -> None:
    logits, config = case
    scalings = gate(logits, config)

    assert scalings.dtype == torch.float32
    assert (scalings >= 0).all()
    if config.top_k_lora is None:
        torch.testing.assert_close(scalings.sum(-1), torch.ones(scalings.shape[:-1]))
    else:
        assert (scalings.sum(-1) <= 1 + 1e-6).all()


@given(gated(TOP_K_SOFTMAX))
def test_a_softmax_over_the_top_k_sums_to_1_for_each_token(case: tuple[Tensor, XLoraConfig]) -> None:
    logits, config = case
    scalings = gate(logits, config)

    assert (scalings >= 0).all()
    torch.testing.assert_close(scalings.sum(-1), torch.ones(scalings.shape[:-1]))


@given(logits_of(), st.data())
def test_the_k_largest_keep_their_value_and_all_others_are_0(logits: Tensor, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, logits.shape[-1]))
    scalings = logits.float().exp() + 1  # none of them 0

    kept = keep_top_k(scalings, k)

    chosen = kept != 0
    assert (chosen.sum(-1) == k).all()
    assert torch.equal(kept[chosen], scalings[chosen])
    smallest_kept = kept.masked_fill(~chosen, torch.inf).amin(-1)
    assert (scalings.masked_fill(chosen, -torch.inf).amax(-1) <= smallest_kept).all()


def test_what_is_kept_is_chosen_by_index_so_that_zeros_and_negatives_count() -> None:
    logits = torch.tensor([0.0, -1.0, -5.0]).view(1, 1, 1, 3)

    assert keep_top_k(logits, 2).flatten().tolist() == [0.0, -1.0, 0.0]
    both = softmax_over_top_k(logits, 2).flatten()
    assert both.tolist() == pytest.approx([0.731, 0.269, 0.0], abs=1e-3)


def test_raw_logits_weigh_the_experts_as_they_are() -> None:
    logits = torch.tensor([2.0, -3.0]).view(1, 1, 1, 2)

    assert torch.equal(gate(logits, XLoraConfig(adapters=("a", "b"), enable_softmax=False)), logits)


def test_a_high_temperature_evens_out_and_a_low_one_decides() -> None:
    logits = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)

    def largest(temperature: float) -> float:
        return gate(logits, XLoraConfig(adapters=("a", "b"), softmax_temperature=temperature)).max().item()

    assert largest(100.0) == pytest.approx(0.5, abs=0.01)
    assert largest(1.0) == pytest.approx(0.731, abs=0.001)
    assert largest(0.05) == pytest.approx(1.0, abs=0.001)


each_softmax = pytest.mark.parametrize("kind", [SOFTMAX, TOP_K_SOFTMAX], ids=["softmax", "top-k"])


def presence(data: st.DataObject, layers: int, experts: int) -> Tensor:
    """[layer expert], at least one expert in each layer."""
    layer = st.lists(st.booleans(), min_size=experts, max_size=experts).filter(any)
    return torch.tensor(data.draw(st.lists(layer, min_size=layers, max_size=layers)))


@each_softmax
@given(data=st.data())
def test_renormalised_an_absent_expert_is_as_if_it_were_not_there(
    kind: dict[str, Any], data: st.DataObject
) -> None:
    logits, config = data.draw(gated(kind))
    present = presence(data, *logits.shape[2:])

    scalings = gate(logits, config, present=present)

    assert (scalings[..., ~present] == 0).all()
    for layer, experts in enumerate(present):
        few = logits[:, :, layer : layer + 1, experts].float() / config.softmax_temperature
        k = min(config.top_k_lora or few.shape[-1], few.shape[-1])
        alone = softmax_over_top_k(few, k) if kind is TOP_K_SOFTMAX else keep_top_k(few.softmax(-1), k)
        # Sorted, since either of two equal logits may be the one that is kept.
        found = scalings[:, :, layer : layer + 1, experts]
        torch.testing.assert_close(found.sort(-1).values, alone.sort(-1).values)


@each_softmax
@given(data=st.data())
def test_one_gate_for_all_layers_is_dealt_out_at_each_layer_by_who_is_there(
    kind: dict[str, Any], data: st.DataObject
) -> None:
    logits, config = data.draw(gated(kind))
    present = presence(data, 3, logits.shape[3])
    shared = logits[:, :, :1]

    assert torch.equal(
        gate(shared, config, present=present),
        gate(shared.expand(-1, -1, 3, -1), config, present=present),
    )


@each_softmax
@given(data=st.data())
def test_gradients_are_finite_and_reach_no_absent_expert(kind: dict[str, Any], data: st.DataObject) -> None:
    logits, config = data.draw(gated(kind))
    present = presence(data, *logits.shape[2:])
    logits = logits.float().clamp(-5, 5).requires_grad_()
    weights = torch.arange(1.0, logits.shape[-1] + 1)

    (gate(logits, config, present=present) * weights).sum().backward()

    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[..., ~present] == 0).all()


@each_kind
@given(data=st.data())
def test_the_order_of_the_batch_does_not_matter(kind: dict[str, Any], data: st.DataObject) -> None:
    logits, config = data.draw(gated(kind))
    order = data.draw(st.permutations(range(logits.shape[0])))

    assert torch.equal(gate(logits[order], config), gate(logits, config)[order])


@each_kind
@given(data=st.data())
def test_later_tokens_do_not_change_earlier_scalings(kind: dict[str, Any], data: st.DataObject) -> None:
    logits, config = data.draw(gated(kind))
    changed = logits.clone()
    changed[:, 1:] = changed[:, 1:].flip(-1) + data.draw(st.floats(-100, 100))

    assert torch.equal(gate(changed, config)[:, :1], gate(logits, config)[:, :1])
    assert torch.equal(gate(logits[:, :1], config), gate(logits, config)[:, :1])


@each_kind
@given(data=st.data())
def test_a_layer_does_not_change_another_layers_scalings(kind: dict[str, Any], data: st.DataObject) -> None:
    logits, config = data.draw(gated(kind))
    changed = logits.clone()
    changed[:, :, 1:] = changed[:, :, 1:].flip(-1) + data.draw(st.floats(-100, 100))

    assert torch.equal(gate(changed, config)[:, :, :1], gate(logits, config)[:, :, :1])


@each_kind
@given(data=st.data())
def test_gradients_are_finite_and_reach_no_raw_logit_that_was_not_kept(
    kind: dict[str, Any], data: st.DataObject
) -> None:
    logits, config = data.draw(gated(kind))
    logits = logits.float().clamp(-5, 5).requires_grad_()
    scalings = gate(logits, config)
    weights = torch.arange(1.0, scalings.shape[-1] + 1)

    (scalings * weights).sum().backward()

    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if not config.enable_softmax:  # a softmax over all ties in the experts that were not kept
        left_out = (scalings == 0) & (logits != 0)
        assert (logits.grad[left_out] == 0).all()


def test_the_best_expert_acts_at_unit_scale_and_learns_as_under_the_softmax() -> None:
    logits = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    names = ("a", "b", "c", "d")
    scalings = gate(logits, XLoraConfig(adapters=names, unit_top_1=True))
    assert torch.equal(scalings.sort(-1).values[..., -1], torch.ones(2, 3, 2))
    assert torch.equal(scalings.sum(-1), torch.ones(2, 3, 2))
    assert torch.equal(scalings.argmax(-1), logits.argmax(-1))
    upstream = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(1))
    (straight,) = torch.autograd.grad(scalings, logits, upstream)
    (soft,) = torch.autograd.grad(logits.softmax(-1), logits, upstream)
    torch.testing.assert_close(straight, soft)


def test_sigmoids_do_not_compete_and_none_falls_below_the_floor() -> None:
    config = XLoraConfig(adapters=("a", "b"), enable_softmax=False, sigmoid_floor=0.1)
    logits = torch.tensor([[[[-1e4, 0.0]], [[1e4, 1e4]]]])
    expected = torch.tensor([[[[0.1, 0.55]], [[1.0, 1.0]]]])
    torch.testing.assert_close(gate(logits, config), expected)


def test_load_is_even_where_experts_take_turns_and_uneven_where_one_does_all() -> None:
    turns = torch.eye(3).view(1, 3, 1, 3).expand(1, 3, 2, 3)
    mask = torch.ones(1, 3, dtype=torch.long)
    assert float(uneven_load(turns, mask)) == pytest.approx(0, abs=1e-6)
    # Padding does not count: of two tokens left, two experts of three have half each.
    assert float(uneven_load(turns, torch.tensor([[0, 1, 1]]))) == pytest.approx(3 * 2 * 0.25 - 1)
    alone = torch.tensor([0.0, 4.0, 0.0]).expand(1, 3, 2, 3)
    assert float(uneven_load(alone, mask)) == pytest.approx(2)
