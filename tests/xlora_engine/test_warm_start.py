"""The routing warm start learns domains from hidden states, for every layer at once."""

import torch

from xlora_engine.config import XLoraConfig
from xlora_engine.head import ScalingHead
from xlora_engine.hidden_states import HiddenStates
from xlora_engine.warm_start import RoutedRows, WarmStart, warm_start

CONFIG = XLoraConfig(
    adapters=("bio", "protein"), hidden_size=8, layerwise_scalings=True, xlora_depth=2, xlora_size=16
)


def separable_rows(rows: int = 20, tokens: int = 5) -> RoutedRows:
    """Rows whose hidden states lean one way for one expert and the other way for the other."""
    generator = torch.Generator().manual_seed(0)
    experts = torch.arange(rows) % 2
    lean = (experts * 2.0 - 1.0).repeat_interleave(tokens)[:, None]
    values = (torch.randn(rows * tokens, 8, generator=generator) * 0.1 + lean).bfloat16()
    hidden = HiddenStates(values=values, starts=torch.arange(rows + 1) * tokens)
    return RoutedRows(hidden=hidden, experts=experts, train=tuple(range(16)), held_out=tuple(range(16, rows)))


def test_every_layer_learns_which_domain_a_token_is_from() -> None:
    head = ScalingHead(CONFIG, layer_count=3).eval()
    rows = separable_rows()
    result = warm_start(head, rows, WarmStart(steps=60, tokens_per_step=64, learning_rate=1e-2))
    scalings = head(rows.hidden.row(17)[None].float())
    assert result.best_held_out_loss < 0.1 < result.first_held_out_loss
    assert scalings.shape == (1, 5, 3, 2)
    assert (scalings[..., 1] > 0.9).all()
    # The learnt gate is repeated bit by bit; a matrix product may round its equal columns differently.
    for parameters in head.layers[-1].parameters():
        first, second, third = parameters.chunk(3)
        assert torch.equal(first, second)
        assert torch.equal(first, third)
    torch.testing.assert_close(scalings[:, :, 0], scalings[:, :, 2], rtol=1e-6, atol=1e-7)
