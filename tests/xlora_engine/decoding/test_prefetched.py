"""Prefetching the scaling pass changes how long generation takes, and nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from tests.pico import pico_adapter
from tests.small_bases import SMALL_BASES
from tests.xlora_engine.conftest import Collected, Mixture
from tests.xlora_engine.decoding.forwards import count_forwards
from xlora_engine.config import XLoraConfig
from xlora_engine.decoding.coupled_sampling import CoupledSampling
from xlora_engine.decoding.joint_cache import LEAST_GROWTH
from xlora_engine.decoding.prefetched import CPU_BATCH_LIMIT, can_prefetch
from xlora_engine.model import XLoraModel

NEW_TOKENS = 12

#: Weights of the experts: as weak as trained ones, whose tokens the base model often guesses, and strong.
STRENGTHS = {"often right": 0.1, "seldom right": 1.0}

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20},
    "several samples": {"do_sample": True, "num_return_sequences": 2},
    "penalties": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "chunked prompt": {"do_sample": False, "prefill_chunk_size": 4},
}


def generate(model: XLoraModel, token_ids: Tensor, **asked: Any) -> Any:
    torch.manual_seed(7)
    return model.generate(
        token_ids, **{"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, **asked}
    )


def both(model: XLoraModel, token_ids: Tensor, **asked: Any) -> tuple[Any, Any]:
    """With prefetching and without; each leaves the same random state."""
    prefetched = generate(model, token_ids, **asked)
    state = torch.random.get_rng_state()
    plain = generate(model, token_ids, prefetch_scalings=False, **asked)
    assert torch.equal(torch.random.get_rng_state(), state)
    return prefetched, plain


def passes(model: XLoraModel, token_ids: Tensor, **asked: Any) -> int:
    """How often the base model's decoder ran."""
    return count_forwards(model, lambda: generate(model, token_ids, **asked))


@pytest.mark.parametrize("strength", STRENGTHS.values(), ids=STRENGTHS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("padded", [False, True], ids=["", "left-padded"])
def test_tokens_are_those_of_plain_decoding(
    way: str, strength: float, padded: bool, mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture(global_scaling_weight=strength)
    asked = dict(WAYS[way])
    batch = token_ids.clone()
    if padded:
        batch[0, :3] = 0
        asked["attention_mask"] = (batch != 0).long()

    prefetched, plain = both(model, batch, **asked)

    assert torch.equal(prefetched, plain)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("layerwise", [False, True])
def test_experts_may_be_active_in_the_scaling_pass(
    layerwise: bool, batch_size: int, mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture(scaling_pass_value=0.5, layerwise_scalings=layerwise)

    prefetched, plain = both(model, token_ids[:batch_size], return_dict_in_generate=True)

    assert torch.equal(prefetched.sequences, plain.sequences)
    for ours, theirs in zip(prefetched.cache.scaling.layers, plain.cache.scaling.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=0, atol=1e-4)


def test_the_scaling_pass_guesses_well_with_experts_active_in_it(mixture: Mixture, token_ids: Tensor) -> None:
    """Each expert at a third in both passes: the guesses are all right, strong as the experts are."""
    model = mixture(scaling_pass_value=1 / 3, softmax_temperature=1e6)
    assert len(model.experts) == 3

    assert passes(model, token_ids) == 2 + 1 + NEW_TOKENS - 1
    assert passes(mixture(softmax_temperature=1e6), token_ids) > 2 + 1 + NEW_TOKENS - 1


def test_one_sequence_is_decoded_to_the_same_tokens(mixture: Mixture, token_ids: Tensor) -> None:
    for strength in STRENGTHS.values():
        prefetched, plain = both(mixture(global_scaling_weight=strength), token_ids[:1])
        assert torch.equal(prefetched, plain)


def test_right_guesses_save_nearly_half_of_the_passes(mixture: Mixture, token_ids: Tensor) -> None:
    effectless = mixture(global_scaling_weight=0.0)

    assert passes(effectless, token_ids, prefetch_scalings=False) == 2 * NEW_TOKENS
    # Two for the prompt, one for the first token's scalings, then one for each further token.
    assert passes(effectless, token_ids) == 2 + 1 + NEW_TOKENS - 1


def test_sampling_guesses_with_the_noise_it_chooses_with(mixture: Mixture, token_ids: Tensor) -> None:
    effectless = mixture(global_scaling_weight=0.0)

    assert passes(effectless, token_ids, do_sample=True, temperature=1.5) == 2 + 1 + NEW_TOKENS - 1


def test_wrong_guesses_cost_one_pass_each(mixture: Mixture, token_ids: Tensor) -> None:
    """Never more passes than plain decoding and one, however bad the guesses are."""
    assert passes(mixture(), token_ids) <= 2 * NEW_TOKENS + 1


def test_sequences_may_end_at_different_steps(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture(global_scaling_weight=STRENGTHS["often right"])
    whole = generate(model, token_ids)[:, token_ids.shape[1] :]
    ends = [int(whole[0, 3]), int(whole[1, 7])]

    prefetched, plain = both(model, token_ids, eos_token_id=ends, min_new_tokens=1)

    assert torch.equal(prefetched, plain)
    assert prefetched.shape[1] <= token_ids.shape[1] + 8


def test_a_streamer_gets_the_prompt_every_token_and_the_end(mixture: Mixture, token_ids: Tensor) -> None:
    model, prompt, streamer = mixture(), token_ids[:1], Collected()

    out = generate(model, prompt, streamer=streamer)

    assert streamer.parts[0] == prompt[0].tolist()
    assert [token for (token,) in streamer.parts[1:]] == out[0, prompt.shape[1] :].tolist()
    assert streamer.ended


class _At(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_a_stopping_criterion_of_the_callers_own_is_obeyed(mixture: Mixture, token_ids: Tensor) -> None:
    stops = StoppingCriteriaList([_At(token_ids.shape[1] + 5)])

    prefetched, plain = both(mixture(), token_ids, stopping_criteria=stops)

    assert torch.equal(prefetched, plain)
    assert prefetched.shape[1] == token_ids.shape[1] + 5


def test_a_logits_processor_with_a_state_is_asked_once_a_step(mixture: Mixture, token_ids: Tensor) -> None:
    asked: list[int] = []

    def bans_what_it_counts(input_ids: Tensor, scores: Tensor) -> Tensor:
        asked.append(input_ids.shape[1])
        scores[:, len(asked) % scores.shape[1]] = -float("inf")
        return scores

    for prefetches in (True, False):
        asked.clear()
        generate(mixture(), token_ids, logits_processor=[bans_what_it_counts], prefetch_scalings=prefetches)
        assert asked == list(range(token_ids.shape[1], token_ids.shape[1] + NEW_TOKENS))


def test_everything_returned_is_that_of_plain_decoding(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture(global_scaling_weight=STRENGTHS["often right"])

    prefetched, plain = both(
        model, token_ids, return_dict_in_generate=True, output_scores=True, output_logits=True
    )

    assert torch.equal(prefetched.sequences, plain.sequences)
    for name in ("scores", "logits"):
        torch.testing.assert_close(
            torch.stack(getattr(prefetched, name)), torch.stack(getattr(plain, name)), rtol=0, atol=1e-4
        )
    for half in ("scaling", "mixture"):
        found, expected = getattr(prefetched.cache, half), getattr(plain.cache, half)
        assert found.get_seq_length() == expected.get_seq_length()
        for ours, theirs in zip(found.layers, expected.layers, strict=True):
            torch.testing.assert_close(ours.keys, theirs.keys, rtol=0, atol=1e-4)
            torch.testing.assert_close(ours.values, theirs.values, rtol=0, atol=1e-4)


def test_generation_goes_on_from_the_cache_it_returned(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    first = generate(model, token_ids, max_new_tokens=5, min_new_tokens=5, return_dict_in_generate=True)

    rest = generate(model, first.sequences, max_new_tokens=7, min_new_tokens=7, cache=first.cache)

    assert torch.equal(rest, generate(model, token_ids, prefetch_scalings=False))


def test_input_embeddings_are_decoded_to_the_same_tokens(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    embeddings = model.base.get_input_embeddings()(token_ids)
    asked: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}

    prefetched, plain = (
        model.generate(inputs_embeds=embeddings, prefetch_scalings=prefetches, **asked)
        for prefetches in (True, False)
    )

    assert torch.equal(prefetched, plain)


def test_buffers_grow_with_the_tokens(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture(global_scaling_weight=STRENGTHS["often right"])
    tokens = LEAST_GROWTH + 20

    prefetched, plain = both(model, token_ids[:1], max_new_tokens=tokens, min_new_tokens=tokens)

    assert torch.equal(prefetched, plain)


@pytest.mark.parametrize("prompt_tokens", [9, 4], ids=["prompt beyond the window", "within"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_sliding_window_hides_the_same_keys(
    batch_size: int, prompt_tokens: int, tmp_path: Any, token_ids: Tensor
) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    def base() -> Any:
        torch.manual_seed(0)
        return MistralForCausalLM(
            MistralConfig(
                vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, sliding_window=6, initializer_range=0.2,
                pad_token_id=0, eos_token_id=2, bos_token_id=1,
            )
        ).eval()  # fmt: skip

    adapters = {
        name: pico_adapter(tmp_path / name, seed=i, base=base(), scale=0.1) for i, name in enumerate("ab")
    }
    model = XLoraModel.from_adapters(base(), adapters, XLoraConfig(layerwise_scalings=True))

    prefetched, plain = both(model, token_ids[:batch_size, :prompt_tokens], return_dict_in_generate=True)

    assert torch.equal(prefetched.sequences, plain.sequences)
    for ours, theirs in zip(prefetched.cache.scaling.layers, plain.cache.scaling.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=0, atol=1e-4)
        assert ours.get_seq_length() == theirs.get_seq_length()


FALLBACKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no cache": ({}, {"use_cache": False}),
    "static cache": ({}, {"cache_implementation": "static"}),
    "hidden states": ({}, {"return_dict_in_generate": True, "output_hidden_states": True}),
}


@pytest.mark.parametrize("why", FALLBACKS)
def test_what_cannot_be_prefetched_is_decoded_plainly(why: str, mixture: Mixture, token_ids: Tensor) -> None:
    config, asked = FALLBACKS[why]
    model = mixture(**config)

    assert passes(model, token_ids, **asked) == 2 * NEW_TOKENS


ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    "dynamic in one kind of layer": {
        "full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
    "default in all kinds": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}},
    "default": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize("rope", ROPES)
def test_frequencies_that_depend_on_the_longest_sequence_are_never_prefetched(
    rope: str, mixture: Mixture, token_ids: Tensor
) -> None:
    model, config = mixture(), GenerationConfig(max_length=20, use_cache=True)
    model.base.config.rope_parameters = ROPES[rope]
    cache = model(token_ids, use_cache=True).cache

    prefetches = can_prefetch(model, config, {"cache": cache, "position_ids": token_ids})

    assert prefetches is rope.startswith("default")


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("length", [64, 65], ids=["to the last position", "one token beyond"])
def test_a_table_of_positions_ends_where_plain_decoding_ends(
    batch_size: int, length: int, tmp_path: Any
) -> None:
    """The last token chosen needs no position; a guess of it would."""
    base: Any = SMALL_BASES["GPT-2"].build()
    assert base.config.n_positions == 64
    adapter = pico_adapter(
        tmp_path / "a", seed=0, base=base, target_modules=("c_attn",), fan_in_fan_out=True, scale=0.1
    )
    model = XLoraModel.from_adapters(base, {"a": adapter})
    prompt = torch.arange(3, 12).repeat(batch_size, 1)
    asked = {"max_length": length, "min_length": length, "max_new_tokens": None, "min_new_tokens": None}

    prefetched, plain = both(model, prompt, **asked)

    assert prefetched.shape == (batch_size, length)
    assert torch.equal(prefetched, plain)


def test_large_batches_are_decoded_plainly_on_a_cpu(mixture: Mixture, token_ids: Tensor) -> None:
    many = token_ids[:1].repeat(CPU_BATCH_LIMIT + 1, 1)

    assert passes(mixture(), many) == 2 * NEW_TOKENS
    assert passes(mixture(global_scaling_weight=0.0), many[1:]) == NEW_TOKENS + 2


def test_a_choice_is_what_multinomial_draws_and_the_same_when_asked_again() -> None:
    scores = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    drawn = [torch.multinomial(scores.softmax(-1), num_samples=1)[:, 0] for _ in range(4)]

    torch.manual_seed(3)
    choose = CoupledSampling(samples=True)
    for expected in drawn:
        assert torch.equal(choose(scores), expected)
        assert torch.equal(choose(scores), expected)
        choose.next_step()
