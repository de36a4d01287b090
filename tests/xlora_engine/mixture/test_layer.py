"""A wrapped layer adds each expert's update by its scaling, for every layout of its input."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from xlora_engine.errors import BaseUnsupported
from xlora_engine.mixture.layer import MixtureEmbedding, MixtureLayer, share_inputs
from xlora_engine.mixture.scaling_context import SPREAD_AT_ONCE_LIMIT, ScalingContext
from xlora_engine.sources.adapter_weights import LowRank


def update(seed: int, *, rank: int, d_in: int = 5, d_out: int = 7, is_embedding: bool = False) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, d_in, generator=generator)
    B = torch.randn(d_out, rank, generator=generator)
    return LowRank(A=A, B=B, scale=0.5 + seed, is_embedding=is_embedding)


def wrap(
    base: nn.Module, updates: Mapping[int, LowRank], context: ScalingContext, layer: int
) -> MixtureLayer:
    kind = MixtureEmbedding if isinstance(base, nn.Embedding) else MixtureLayer
    return kind(
        base,
        updates,
        layer=layer,
        experts=3,
        context=context,
        global_weight=0.7,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def expected(base: nn.Module, x: Tensor, updates: Mapping[int, LowRank], scalings: Tensor) -> Tensor:
    """One expert at a time; `scalings` is [batch seq expert]."""
    out: Tensor = base(x)
    for position, u in updates.items():
        inner = u.A.T[x] if u.is_embedding else x @ u.A.T
        out = out + 0.7 * scalings[..., position, None] * u.scale * (inner @ u.B.T)
    return out


UPDATES = {0: update(0, rank=2), 2: update(2, rank=4)}


@pytest.fixture
def context() -> ScalingContext:
    return ScalingContext()


@pytest.fixture
def scalings() -> Tensor:
    """[batch seq layer expert]."""
    return torch.rand(2, 3, 4, 3, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("base", [nn.Linear(5, 7), nn.Linear(5, 7, bias=False), Conv1D(7, 5)])
def test_each_expert_is_weighed_by_its_scaling_of_this_layer(
    base: nn.Module, context: ScalingContext, scalings: Tensor
) -> None:
    wrapped, x = wrap(base, UPDATES, context, layer=1), torch.randn(2, 3, 5)

    with context.using(scalings):
        torch.testing.assert_close(wrapped(x), expected(base, x, UPDATES, scalings[:, :, 1]))


def test_shared_scalings_weigh_every_layer(context: ScalingContext, scalings: Tensor) -> None:
    base, x = nn.Linear(5, 7), torch.randn(2, 3, 5)
    wrapped = wrap(base, UPDATES, context, layer=3)

    with context.using(scalings[:, :, :1]):
        torch.testing.assert_close(wrapped(x), expected(base, x, UPDATES, scalings[:, :, 0]))


def test_constant_scalings_weigh_every_token_in_either_layout(context: ScalingContext) -> None:
    base, x = nn.Linear(5, 7), torch.randn(2, 3, 5)
    wrapped = wrap(base, UPDATES, context, layer=0)
    constant = torch.tensor([0.2, 9.0, -0.4]).view(1, 1, 1, 3)
    one_by_one = expected(base, x, UPDATES, constant[:, :, 0].expand(2, 3, 3))

    with context.using(constant):
        torch.testing.assert_close(wrapped(x), one_by_one)
        torch.testing.assert_close(wrapped(x.flatten(0, 1)), one_by_one.flatten(0, 1))


def test_tokens_may_be_flattened_before_a_layer(context: ScalingContext, scalings: Tensor) -> None:
    base, x = nn.Linear(5, 7), torch.randn(2, 3, 5)
    wrapped = wrap(base, UPDATES, context, layer=2)

    with context.using(scalings):
        torch.testing.assert_close(wrapped(x.flatten(0, 1)), wrapped(x).flatten(0, 1))


def test_some_tokens_of_a_flattened_batch_are_refused(context: ScalingContext, scalings: Tensor) -> None:
    """As the experts of a mixture-of-experts base are given them; whose scalings they get is unknown."""
    wrapped = wrap(nn.Linear(5, 7), UPDATES, context, layer=2)

    with context.using(scalings), pytest.raises(BaseUnsupported, match="an adapted layer gets 4 of 6 tokens"):
        wrapped(torch.randn(4, 5))


def test_the_last_tokens_alone_get_their_own_scalings(context: ScalingContext, scalings: Tensor) -> None:
    base, x = nn.Linear(5, 7), torch.randn(2, 3, 5)
    wrapped = wrap(base, UPDATES, context, layer=2)

    with context.using(scalings):
        torch.testing.assert_close(wrapped(x[:, -2:]), wrapped(x)[:, -2:])


def test_an_embeddings_experts_look_tokens_up(context: ScalingContext, scalings: Tensor) -> None:
    base, token_ids = nn.Embedding(11, 7), torch.randint(0, 11, (2, 3))
    updates = {
        0: update(0, rank=2, d_in=11, is_embedding=True),
        1: update(1, rank=3, d_in=11, is_embedding=True),
    }
    wrapped = wrap(base, updates, context, layer=0)

    with context.using(scalings):
        torch.testing.assert_close(wrapped(token_ids), expected(base, token_ids, updates, scalings[:, :, 0]))


@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize("layers", [1, 4])
def test_many_scalings_are_spread_layer_by_layer_with_equal_results_and_gradients(
    flattened: bool, layers: int, scalings: Tensor
) -> None:
    bases = [nn.Linear(5, 7) for _ in range(4)]
    x = torch.randn(6, 5) if flattened else torch.randn(2, 3, 5)

    def run(limit: int) -> tuple[Tensor, Tensor]:
        context = ScalingContext(spread_at_once_limit=limit)
        wrapped = [wrap(base, UPDATES, context, layer=number) for number, base in enumerate(bases)]
        given = scalings[:, :, :layers].clone().requires_grad_()
        with context.using(given):
            out = torch.stack([one(x) for one in wrapped])
        (gradient,) = torch.autograd.grad(out.square().sum(), given)
        return out, gradient

    torch.testing.assert_close(run(SPREAD_AT_ONCE_LIMIT), run(0))


def test_without_scalings_a_layer_is_its_base_bit_for_bit(context: ScalingContext, scalings: Tensor) -> None:
    base, x = nn.Linear(5, 7), torch.randn(2, 3, 5)
    wrapped = wrap(base, UPDATES, context, layer=0)

    assert torch.equal(wrapped(x), base(x))
    with context.using(scalings), context.using(None):
        assert torch.equal(wrapped(x), base(x))


def test_scalings_in_force_return_after_an_inner_block_even_if_it_raises(
    context: ScalingContext, scalings: Tensor
) -> None:
    with context.using(scalings):
        with pytest.raises(ZeroDivisionError), context.using(scalings * 2):
            raise ZeroDivisionError
        assert context.scalings is scalings
    assert context.scalings is None


ATTENTION = {"attn.q_proj": UPDATES, "attn.k_proj": {0: UPDATES[0], 1: UPDATES[2]}, "attn.v_proj": UPDATES}


def attention(context: ScalingContext) -> dict[str, MixtureLayer]:
    """Three layers that share their input, and one beside them that has another."""
    updates = {**ATTENTION, "attn.o_proj": UPDATES}
    return {
        path: wrap(nn.Linear(5, 7), updates[path], context, layer=number)
        for number, path in enumerate(updates)
    }


@pytest.mark.parametrize("layerwise", [True, False])
def test_layers_that_share_their_input_share_one_product_and_answer_as_before(
    layerwise: bool, context: ScalingContext, scalings: Tensor
) -> None:
    layers = attention(context)
    share_inputs(layers)
    q, k, v, o = layers.values()
    assert q.down is k.down is v.down is not o.down

    for given in (scalings, scalings * 2):
        used = given if layerwise else given[:, :, :1]
        x, y = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
        with context.using(used):
            for number, (layer, updates) in enumerate(zip((q, k, v), ATTENTION.values(), strict=True)):
                weights = used[:, :, number if layerwise else 0]
                # The same tensor, as siblings are called; another one in between; the same layer again.
                for given_x in (x, y, x, x):
                    torch.testing.assert_close(
                        layer(given_x), expected(layer.base, given_x, updates, weights)
                    )
            torch.testing.assert_close(o(x), expected(o.base, x, UPDATES, used[:, :, 3 if layerwise else 0]))
            q(x)
            k_weights = used[:, :, 1 if layerwise else 0]
            torch.testing.assert_close(k(y), expected(k.base, y, ATTENTION["attn.k_proj"], k_weights))


def test_a_shared_product_is_computed_once_and_kept_no_longer_than_it_is_wanted(
    context: ScalingContext, scalings: Tensor
) -> None:
    layers = attention(context)
    share_inputs(layers)
    q, k, v, _ = layers.values()
    x = torch.randn(2, 3, 5)
    pending: list[int] = []
    q.down.register_forward_pre_hook(lambda *_: pending.append(len(context.pending)))

    with context.using(scalings):
        q(x), k(x)
        assert len(context.pending) == 1
        v(x)
        assert pending == [0, 1, 1]
        assert not context.pending
        q(x)
    assert not context.pending, "what was not fetched goes with the scalings"


def test_sharing_keeps_every_gradient(context: ScalingContext, scalings: Tensor) -> None:
    def gradients(*, shared: bool) -> list[Tensor]:
        torch.manual_seed(0)
        fresh = ScalingContext()
        layers = attention(fresh)
        if shared:
            share_inputs(layers)
        for layer in layers.values():
            layer.down.requires_grad_(True)
        x, given = torch.randn(2, 3, 5, requires_grad=True), scalings.clone().requires_grad_()
        with fresh.using(given):
            torch.stack([layer(x) for layer in layers.values()]).square().sum().backward()
        downs = layers["attn.q_proj"].down.weight.grad
        assert downs is not None
        assert x.grad is not None
        assert given.grad is not None
        return [x.grad, given.grad, downs[: layers["attn.q_proj"].up.shape[1]]]

    for found, wanted in zip(gradients(shared=True), gradients(shared=False), strict=True):
        torch.testing.assert_close(found, wanted)


def test_an_experts_update_can_be_taken_out_of_the_stack(context: ScalingContext) -> None:
    wrapped = wrap(nn.Linear(5, 7), UPDATES, context, layer=0)

    for position, u in UPDATES.items():
        A, B = wrapped.update_of(position)
        assert torch.equal(A, u.A)
        assert torch.equal(B, u.B)


def test_an_experts_update_can_be_taken_out_of_a_shared_stack(context: ScalingContext) -> None:
    layers = attention(context)
    share_inputs(layers)

    for path, updates in ATTENTION.items():
        for position, u in updates.items():
            A, B = layers[path].update_of(position)
            assert torch.equal(A, u.A)
            assert torch.equal(B, u.B)


def test_a_bfloat16_layer_answers_in_bfloat16(context: ScalingContext, scalings: Tensor) -> None:
    base = nn.Linear(5, 7)
    nn.Module.to(base, torch.bfloat16)
    wrapped = MixtureLayer(
        base,
        UPDATES,
        layer=0,
        experts=3,
        context=context,
        global_weight=1.0,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )

    with context.using(scalings):
        assert wrapped(torch.randn(2, 3, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16
