"""Two caches give the logits of none, however the tokens arrive and whatever generation does to the cache."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from tests.xlora_engine.conftest import Mixture
from xlora_engine.errors import CacheUnsupported
from xlora_engine.mixture.cache import XLoraCache
from xlora_engine.model import XLoraModel

#: Logits are of size 10; a cache only changes the order of additions.
TOLERANCE = 2e-5

MODES: list[dict[str, Any]] = [
    {},
    {"layerwise_scalings": False},
    {"scaling_pass_value": 1 / 3},
    {"top_k_lora": 2, "enable_softmax": False, "enable_softmax_topk": True},
]


def in_chunks(model: XLoraModel, token_ids: Tensor, sizes: list[int], **inputs: Tensor) -> Tensor:
    """Logits of all tokens, given to one cache a few at a time; masks cover all tokens so far."""
    cache, parts, start = model.new_cache(), [], 0
    for size in sizes:
        end = start + size
        given = {
            name: t[:, :end] if name == "attention_mask" else t[:, start:end] for name, t in inputs.items()
        }
        out = model(token_ids[:, start:end], cache=cache, use_cache=True, **given)
        assert out.cache is cache
        parts.append(out.logits)
        start = end
    assert cache.get_seq_length() == cache.scaling.get_seq_length() == token_ids.shape[1]
    return torch.cat(parts, 1)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("sizes", [[5, 1, 1, 1, 1], [3, 3, 3], [1] * 9, [8, 1]], ids=str)
def test_logits_with_a_cache_are_those_of_one_forward(
    mode: dict[str, Any], sizes: list[int], mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture(**mode)

    with torch.no_grad():
        assert_close(in_chunks(model, token_ids, sizes), model(token_ids).logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_real_tokens_logits(
    side: str, mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture()
    short = token_ids[:1, :6]
    pad = torch.zeros(1, 3, dtype=torch.long)
    padded = torch.cat([pad, short] if side == "left" else [short, pad], 1)
    batch = torch.cat([padded, token_ids[1:]])
    mask = torch.ones_like(batch)
    mask[0, slice(0, 3) if side == "left" else slice(6, 9)] = 0
    real = slice(3, 9) if side == "left" else slice(0, 6)
    inputs = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}

    with torch.no_grad():
        alone, whole = model(short).logits, model(token_ids[1:]).logits
        for logits in (model(batch, **inputs).logits, in_chunks(model, batch, [4, 4, 1], **inputs)):
            assert_close(logits[:1, real], alone)
            assert_close(logits[1:], whole)


def test_scalings_of_a_token_do_not_depend_on_later_tokens(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()

    with torch.no_grad():
        torch.testing.assert_close(
            model(token_ids[:, :4]).scalings, model(token_ids).scalings[:, :4], rtol=0, atol=1e-5
        )


def test_sequences_are_reordered_repeated_and_selected_in_both_caches(
    mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture()
    last = token_ids[:, -1:]

    @torch.no_grad()
    def next_logits(cache: XLoraCache, tokens: Tensor) -> Tensor:
        logits: Tensor = model(tokens, cache=cache, use_cache=True).logits
        return logits

    @torch.no_grad()
    def filled() -> XLoraCache:
        cache = model.new_cache()
        model(token_ids[:, :-1], cache=cache, use_cache=True)
        return cache

    expected = next_logits(filled(), last)
    reordered, repeated, selected = filled(), filled(), filled()
    order = torch.tensor([1, 0])
    reordered.reorder_cache(order)  # type: ignore[arg-type]
    repeated.batch_repeat_interleave(2)
    selected.batch_select_indices(torch.tensor([1]))

    assert_close(next_logits(reordered, last[order]), expected[order])
    assert_close(next_logits(repeated, last.repeat_interleave(2, 0)), expected.repeat_interleave(2, 0))
    assert_close(next_logits(selected, last[1:]), expected[1:])


def test_a_cropped_cache_forgets_in_both_passes(mixture: Mixture, token_ids: Tensor) -> None:
    model, cache = mixture(), None
    with torch.no_grad():
        cache = model(token_ids, use_cache=True).cache
        cache.crop(-4)
        assert cache.get_seq_length() == cache.scaling.get_seq_length() == 5
        again = model(token_ids[:, 5:], cache=cache, use_cache=True).logits

        assert_close(again, model(token_ids).logits[:, 5:])


def test_a_reset_cache_can_be_filled_again(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    with torch.no_grad():
        cache = model(token_ids, use_cache=True).cache
        cache.reset()

        assert cache.get_seq_length() == 0
        assert_close(model(token_ids.flip(1), cache=cache).logits, model(token_ids.flip(1)).logits)


def test_cache_and_past_key_values_are_one_argument(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    with torch.no_grad():
        expected = model(token_ids).logits[:, 5:]
        for name in ("cache", "past_key_values"):
            cache = model.new_cache()
            model(token_ids[:, :5], **{name: cache})
            assert_close(model(token_ids[:, 5:], **{name: cache}).logits, expected)


def test_no_cache_is_made_unless_asked_for(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()

    assert model(token_ids).cache is None
    assert isinstance(model(token_ids, use_cache=True).cache, XLoraCache)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_of_one_pass_is_refused(name: str, mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    caches: list[Any] = [
        DynamicCache(config=model.base.config),
        StaticCache(config=model.base.config, max_cache_len=20),
        ((torch.zeros(1), torch.zeros(1)),),
    ]
    for cache in caches:
        with pytest.raises(CacheUnsupported, match=r"model\.new_cache\(\)"):
            model(token_ids, **{name: cache})
        with pytest.raises(CacheUnsupported, match=r"model\.new_cache\(\)"):
            model.generate(token_ids, max_new_tokens=2, **{name: cache})


def test_both_caches_are_refused_by_a_model_of_one_pass(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()

    with pytest.raises(CacheUnsupported, match="not an XLoraModel"):
        model.base(token_ids, cache=model.new_cache())


def test_the_scaling_passs_own_cache_is_not_the_mixtures(mixture: Mixture, token_ids: Tensor) -> None:
    """Experts change keys and values, so the two caches must differ where experts act."""
    with torch.no_grad():
        cache = mixture()(token_ids, use_cache=True).cache

    assert not torch.allclose(cache.scaling.layers[1].keys, cache.mixture.layers[1].keys)
    assert cache.layers is cache.mixture.layers
