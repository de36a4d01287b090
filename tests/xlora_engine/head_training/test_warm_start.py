"""The routing warm start learns domains from hidden states, for every layer at once."""

from dataclasses import replace

import pytest
import torch

from xlora_engine.config import XLoraConfig
from xlora_engine.errors import ConfigInvalid
from xlora_engine.head_training.expert_labels import SEVERAL
from xlora_engine.head_training.hidden_states import HiddenStates
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.head_training.settings import WarmStart
from xlora_engine.head_training.warm_start import routing_loss, warm_start
from xlora_engine.mixture.head import ScalingHead

CONFIG = XLoraConfig(
    adapters=("bio", "protein"), hidden_size=8, layerwise_scalings=True, xlora_depth=2, xlora_size=16
)


def separable_examples(examples: int = 20, tokens: int = 5) -> RoutedExamples:
    """Examples whose hidden states lean one way for one expert and the other way for the other."""
    generator = torch.Generator().manual_seed(0)
    experts = torch.arange(examples) % 2
    lean = (experts * 2.0 - 1.0).repeat_interleave(tokens)[:, None]
    values = (torch.randn(examples * tokens, 8, generator=generator) * 0.1 + lean).bfloat16()
    hidden = HiddenStates(values=values, starts=torch.arange(examples + 1) * tokens)
    return RoutedExamples(
        hidden=hidden, experts=experts, train=tuple(range(16)), held_out=tuple(range(16, examples))
    )


def test_every_layer_learns_which_domain_a_token_is_from() -> None:
    head = ScalingHead(CONFIG, layer_count=3).eval()
    examples = separable_examples()
    result = warm_start(head, examples, WarmStart(steps=60, tokens_per_step=64, learning_rate=1e-2))
    scalings = head(examples.hidden.of(17)[None].float())
    assert result.best_held_out_loss < 0.1 < result.first_held_out_loss
    assert scalings.shape == (1, 5, 3, 2)
    assert (scalings[..., 1] > 0.9).all()
    # The learnt gate is repeated bit by bit; a matrix product may round its equal columns differently.
    for parameters in head.layers[-1].parameters():
        first, second, third = parameters.chunk(3)
        assert torch.equal(first, second)
        assert torch.equal(first, third)
    torch.testing.assert_close(scalings[:, :, 0], scalings[:, :, 2], rtol=1e-6, atol=1e-7)


def test_a_seed_decides_the_head_whatever_was_drawn_before() -> None:
    examples = separable_examples()
    learnt = []
    for drawn_before in (0, 5):
        torch.rand(drawn_before)
        state = torch.random.get_rng_state()
        head = ScalingHead(CONFIG, layer_count=3)
        warm_start(head, examples, WarmStart(steps=5, tokens_per_step=64, evaluate_every=5))
        learnt.append(weights_of(head))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*learnt)


def weights_of(head: ScalingHead) -> torch.Tensor:
    return torch.cat([values.detach().flatten() for values in head.parameters()])


def with_prefix(examples: RoutedExamples, *, shared: int) -> RoutedExamples:
    """The same examples after a prefix of `shared` tokens."""
    generator = torch.Generator().manual_seed(1)
    prefix = (torch.randn(shared, 8, generator=generator) * 4).bfloat16()
    count = len(examples.experts)
    values = torch.cat([torch.cat([prefix, examples.hidden.of(index)]) for index in range(count)])
    starts = examples.hidden.starts + torch.arange(count + 1) * shared
    return replace(examples, hidden=HiddenStates(values=values, starts=starts), shared=shared)


def test_a_prefix_of_all_domains_neither_labels_nor_hides_one() -> None:
    examples = with_prefix(separable_examples(examples=40), shared=3)
    examples = replace(examples, train=tuple(range(34)), held_out=tuple(range(34, 40)))
    settings = WarmStart(steps=200, tokens_per_step=64, learning_rate=1e-2, patience=100)
    head = ScalingHead(CONFIG, layer_count=3).eval()
    assert warm_start(head, examples, settings).best_held_out_loss < 0.1
    scalings = head(examples.hidden.of(39)[None].float())
    assert (scalings[:, 3:, :, 1] > 0.9).all()
    # Counted like any other, they would be three tokens of eight whose loss cannot fall below ln 2.
    counted = warm_start(ScalingHead(CONFIG, layer_count=3).eval(), replace(examples, shared=0), settings)
    assert counted.best_held_out_loss > 0.2


def test_noise_on_hidden_states_generalises_beyond_the_training_examples() -> None:
    # Given few examples, each with many dimensions of noise beside those of its domain
    generator = torch.Generator().manual_seed(2)
    experts = torch.arange(96) % 2
    values = torch.randn(96, 64, generator=generator)
    values[:, :4] += (experts * 2.0 - 1.0)[:, None]
    examples = RoutedExamples(
        hidden=HiddenStates(values=values.bfloat16(), starts=torch.arange(97)),
        experts=experts,
        train=tuple(range(32)),
        held_out=tuple(range(32, 96)),
    )
    config = replace(CONFIG, hidden_size=64)

    def held_out_loss(hidden_noise: float) -> float:
        settings = WarmStart(steps=200, tokens_per_step=64, evaluate_every=200, hidden_noise=hidden_noise)
        head = ScalingHead(config, layer_count=1).eval()
        warm_start(head, examples, settings)
        held_out = values.bfloat16()[32:]
        return float(routing_loss(head, held_out, experts[32:]).detach())

    assert held_out_loss(1.0) < held_out_loss(0.0) - 0.1


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="hidden_noise"):
        WarmStart(hidden_noise=-0.1)


@pytest.mark.parametrize("averaging", [-0.1, 1.0, float("nan")])
def test_an_average_that_never_moves_is_refused(averaging: float) -> None:
    with pytest.raises(ConfigInvalid, match="averaging"):
        WarmStart(averaging=averaging)


def test_what_is_kept_is_the_running_average_of_the_weights() -> None:
    # Given the weights after each of three steps, kept as they are
    examples, after = separable_examples(), []
    for steps in (1, 2, 3):
        head = ScalingHead(CONFIG, layer_count=1)
        budget = WarmStart(steps=steps, evaluate_every=steps, tokens_per_step=64, averaging=0.0)
        assert warm_start(head, examples, budget).best_step == steps
        after.append(weights_of(head))
    # When they are averaged
    head = ScalingHead(CONFIG, layer_count=1)
    warm_start(head, examples, WarmStart(steps=3, evaluate_every=3, tokens_per_step=64, averaging=0.24))
    # Then the first counts whole, and each later one moves the average: by 1 - 2/11, then by 1 - 0.24
    expected = after[0].lerp(after[1], 9 / 11).lerp(after[2], 0.76)
    torch.testing.assert_close(weights_of(head), expected, rtol=1e-6, atol=1e-7)


def test_sigmoids_learn_each_expert_apart() -> None:
    examples = separable_examples()
    config = replace(CONFIG, enable_softmax=False, sigmoid_floor=0.0)
    head = ScalingHead(config, layer_count=3)
    warm_start(head, examples, WarmStart(steps=60, tokens_per_step=64, learning_rate=1e-2, hidden_noise=0.1))
    tokens = examples.tokens(examples.held_out)
    with torch.no_grad():
        scalings = head.eval()(tokens.hidden().float()[None])[0]
    right = scalings[torch.arange(len(tokens)), :, tokens.experts]
    wrong = scalings[torch.arange(len(tokens)), :, 1 - tokens.experts]
    # Each near its own end, which a softmax over both would not demand.
    assert float(right.mean()) > 0.8
    assert float(wrong.mean()) < 0.2


def test_shares_of_experts_are_learnt_as_labels_are() -> None:
    examples = separable_examples()
    labels, known = torch.tensor([[1.0, 0], [0, 1]]), torch.ones(5, 1)
    shares = {index: known * labels[index % 2] for index in range(len(examples.experts))}
    several = replace(examples, experts=torch.full_like(examples.experts, SEVERAL), shares=shares)
    settings = WarmStart(steps=20, tokens_per_step=64, learning_rate=1e-2)
    heads = [ScalingHead(CONFIG, layer_count=3) for _ in range(2)]
    for head, labelled in zip(heads, (examples, several), strict=True):
        warm_start(head, labelled, settings)
    torch.testing.assert_close(weights_of(heads[0]), weights_of(heads[1]), atol=1e-5, rtol=1e-5)
