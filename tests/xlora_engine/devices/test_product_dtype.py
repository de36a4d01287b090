"""Products with experts take the dtype of a sequence; of few tokens, or where they are trained, their own."""

import pytest
import torch
from torch import Tensor, nn

from xlora_engine.devices.product_dtype import MANY_TOKENS, factor_for
from xlora_engine.mixture.layer import MixtureLayer
from xlora_engine.mixture.scaling_context import ScalingContext
from xlora_engine.sources.adapter_weights import LowRank

FACTOR = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))


def tokens(count: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(1, count, 32, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_a_sequence_is_multiplied_in_its_own_dtype() -> None:
    assert factor_for(FACTOR, tokens(MANY_TOKENS, torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("factor", "x"),
    [
        pytest.param(FACTOR, tokens(MANY_TOKENS - 1, torch.bfloat16), id="few tokens"),
        pytest.param(FACTOR, tokens(MANY_TOKENS, torch.float32), id="equal dtypes"),
        pytest.param(nn.Parameter(FACTOR), tokens(MANY_TOKENS, torch.bfloat16), id="trained"),
    ],
)
def test_otherwise_a_factor_stays_itself(factor: Tensor, x: Tensor) -> None:
    assert factor_for(factor, x) is factor


@pytest.mark.parametrize("base_dtype", [torch.bfloat16, torch.float32])
def test_a_sequence_gives_the_outputs_and_gradients_of_its_tokens_one_by_one(base_dtype: torch.dtype) -> None:
    """`base_dtype` is that of the wrapped layer's output: some quantised layers answer in another dtype."""
    context, base = ScalingContext(), _Doubled(base_dtype)
    updates = {
        number: LowRank(A=FACTOR * (number + 1), B=FACTOR.T / 32, scale=0.5, is_embedding=False)
        for number in range(2)
    }
    layer = MixtureLayer(
        base,
        updates,
        layer=0,
        experts=2,
        context=context,
        global_weight=1.0,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    scalings = torch.rand(1, MANY_TOKENS, 1, 2, generator=torch.Generator().manual_seed(2)).requires_grad_()
    x = tokens(MANY_TOKENS, torch.bfloat16).requires_grad_()

    def run(parts: int) -> tuple[Tensor, ...]:
        outputs = []
        for given, weighed in zip(x.chunk(parts, 1), scalings.chunk(parts, 1), strict=True):
            with context.using(weighed):
                outputs.append(layer(given))
        out = torch.cat(outputs, 1)
        return out.float(), *torch.autograd.grad(out.float().square().mean(), (scalings, x))

    for whole, one_by_one in zip(run(1), run(MANY_TOKENS), strict=True):
        error = (whole - one_by_one).norm() / one_by_one.norm()
        assert error < 2**-7  # bfloat16 rounds to 8 bits


class _Doubled(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return (2 * x).to(self._dtype)
