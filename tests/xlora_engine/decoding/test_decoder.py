"""Every way of generating gives the tokens it gives without a cache."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from tests.pico import pico_llama
from tests.xlora_engine.conftest import Mixture
from xlora_engine.errors import ConfigInvalid
from xlora_engine.mixture.cache import XLoraCache
from xlora_engine.model import XLoraModel

#: Name -> what is asked of `generate`.
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3, "do_sample": False},
    "returned beams": {"num_beams": 4, "num_return_sequences": 3, "do_sample": False},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_p": 0.9},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "guidance": {"guidance_scale": 1.5, "do_sample": False},
    "penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "do_sample": False},
}


def generate(model: XLoraModel, token_ids: Tensor, **asked: Any) -> Tensor:
    torch.manual_seed(7)
    ids: Tensor = model.generate(token_ids, max_new_tokens=8, min_new_tokens=8, **asked)
    return ids


@pytest.mark.parametrize("way", WAYS)
def test_tokens_with_a_cache_are_those_without(way: str, mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    prompts = token_ids[:1] if way == "guidance" else token_ids

    cached, plain = (generate(model, prompts, use_cache=use, **WAYS[way]) for use in (True, False))

    assert torch.equal(cached, plain)
    assert cached.shape[1] == prompts.shape[1] + 8
    with model.disabled():
        assert not torch.equal(generate(model, prompts, **WAYS[way]), cached), (
            "the experts must have an effect"
        )


def test_left_padded_sequences_generate_what_they_generate_alone(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    batch = token_ids.clone()
    batch[0, :3] = 0
    mask = (batch != 0).long()

    together = generate(model, batch, attention_mask=mask, do_sample=False)

    assert torch.equal(together[:1, 3:], generate(model, token_ids[:1, 3:], do_sample=False))
    assert torch.equal(together[1:], generate(model, token_ids[1:], do_sample=False))
    uncached = generate(model, batch, attention_mask=mask, do_sample=False, use_cache=False)
    assert torch.equal(together, uncached)


@pytest.mark.parametrize(
    "asked",
    [{"prefill_chunk_size": 2}, {"cache_implementation": "static"}, {"cache_implementation": "dynamic"}],
    ids=str,
)
def test_every_kind_of_cache_gives_the_same_tokens(
    asked: dict[str, Any], mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture()

    assert torch.equal(
        generate(model, token_ids, do_sample=False, **asked), generate(model, token_ids, do_sample=False)
    )


def test_drafted_tokens_are_kept_only_where_the_mixture_agrees(mixture: Mixture, token_ids: Tensor) -> None:
    model, prompt = mixture(), token_ids[:1]
    expected = generate(model, prompt, do_sample=False)
    repeated = torch.cat([prompt, prompt, expected], 1)
    drafters: list[tuple[Tensor, dict[str, Any]]] = [
        (prompt, {"prompt_lookup_num_tokens": 3}),
        (repeated, {"prompt_lookup_num_tokens": 3}),
        (prompt, {"assistant_model": pico_llama()}),
        (prompt, {"assistant_model": model.base}),
        (prompt, {"assistant_model": mixture(scaling_pass_value=0.5)}),
    ]
    for prompt, asked in drafters:
        drafted = generate(model, prompt, do_sample=False, **asked)
        assert torch.equal(drafted, generate(model, prompt, do_sample=False)), asked


def test_drafts_of_the_models_own_first_layers_are_refused(mixture: Mixture, token_ids: Tensor) -> None:
    with pytest.raises(ConfigInvalid, match="assistant_early_exit must be left out"):
        generate(mixture(), token_ids[:1], assistant_early_exit=1)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_generation_goes_on_from_a_given_cache(name: str, mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    first = model.generate(
        token_ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, return_dict_in_generate=True
    )
    assert isinstance(first.cache, XLoraCache)

    given: dict[str, Any] = {name: first.cache}
    rest = model.generate(first.sequences, max_new_tokens=4, min_new_tokens=4, do_sample=False, **given)

    assert torch.equal(rest, generate(model, token_ids, do_sample=False))


def test_a_generation_configuration_is_obeyed(mixture: Mixture, token_ids: Tensor) -> None:
    asked = GenerationConfig(max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)

    out = mixture().generate(token_ids, generation_config=asked)

    assert out.shape[1] == token_ids.shape[1] + 3


def test_generation_stops_at_the_end_of_text(mixture: Mixture, token_ids: Tensor) -> None:
    model, prompt = mixture(), token_ids[:1]
    end = int(generate(model, prompt, do_sample=False)[0, prompt.shape[1] + 2])

    stopped = model.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=end)

    assert stopped[0, -1] == end
    assert stopped.shape[1] <= prompt.shape[1] + 3


def test_input_embeddings_generate_the_tokens_of_their_ids(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    embeddings = model.base.get_input_embeddings()(token_ids)

    out = model.generate(inputs_embeds=embeddings, max_new_tokens=8, min_new_tokens=8, do_sample=False)

    assert torch.equal(out, generate(model, token_ids, do_sample=False)[:, token_ids.shape[1] :])


def test_generation_leaves_no_gradient_and_the_model_as_it_was(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    before = {name: (p, p.requires_grad) for name, p in model.named_parameters()}

    generate(model, token_ids, do_sample=False)

    assert {name: (p, p.requires_grad) for name, p in model.named_parameters()} == before
    assert model.context.scalings is None
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_threads_that_share_a_model_are_independent(
    batch_size: int, mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture(global_scaling_weight=0.3)
    asked: dict[str, Any] = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
    prompts = [(token_ids[:batch_size] + shift) % 240 + 3 for shift in range(0, 40, 10)]
    expected = [model.generate(prompt, **asked) for prompt in prompts]

    with ThreadPoolExecutor(len(prompts)) as pool:
        found = list(pool.map(lambda prompt: model.generate(prompt, **asked), prompts))

    assert all(map(torch.equal, found, expected))


def test_fixed_scalings_generate_in_one_pass_with_any_cache(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    with model.fixed_scalings(model.constant_scalings([1.0, 0.0, 0.5])):
        plain = generate(model, token_ids, do_sample=False, use_cache=False)
        assert torch.equal(generate(model, token_ids, do_sample=False), plain)
        static = generate(model, token_ids, do_sample=False, cache_implementation="static")
        assert torch.equal(static, plain)
        for drafter in (mixture(), model.base):
            sequence = generate(model, token_ids[:1], do_sample=False, assistant_model=drafter)
            assert torch.equal(sequence, plain[:1])
