"""Frozen scalings are each sequence's own, of the token they were frozen at, and cost one pass a token."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.xlora_engine.conftest import Mixture
from tests.xlora_engine.decoding.test_prefetched import passes
from xlora_engine.errors import CacheUnsupported, ConfigInvalid
from xlora_engine.model import XLoraModel

NEW_TOKENS = 12


def generate(model: XLoraModel, token_ids: Tensor, **asked: Any) -> Any:
    fields = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    return model.generate(token_ids, **(fields | asked))


@torch.no_grad()
def by_hand(model: XLoraModel, token_ids: Tensor, mask: Tensor, *, after: int) -> Tensor:
    """Every token from its whole text: scalings of all tokens so far, those frozen at repeated."""
    frozen_at = token_ids.shape[1] + after
    for _ in range(NEW_TOKENS):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        given: dict[str, Any] = {"attention_mask": mask, "position_ids": positions}
        scalings = model.head(model.scaling_pass(token_ids, **given))
        scalings[:, frozen_at:] = scalings[:, frozen_at - 1 : frozen_at]
        logits: Any = model.mixture_pass(scalings, input_ids=token_ids, **given).logits
        logits[:, :, model.base.config.eos_token_id] = -torch.inf  # as min_new_tokens does
        token_ids = torch.cat([token_ids, logits[:, -1:].argmax(-1)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return token_ids


@pytest.mark.parametrize("asked", [{}, {"prefill_chunk_size": 4}], ids=["", "chunked prompt"])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_tokens_are_those_of_scalings_frozen_by_hand(
    after: int, asked: dict[str, Any], mixture: Mixture, token_ids: Tensor
) -> None:
    model, batch = mixture(), token_ids.clone()
    batch[0, :3] = 0
    mask = (batch != 0).long()

    frozen = generate(model, batch, attention_mask=mask, scalings_frozen_after=after, **asked)

    assert torch.equal(frozen, by_hand(model, batch, mask, after=after))
    assert not torch.equal(frozen, generate(model, batch, attention_mask=mask)), "frozen is not exact"


def test_frozen_after_the_last_token_they_are_exact(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()

    assert torch.equal(generate(model, token_ids, scalings_frozen_after=99), generate(model, token_ids))


def test_there_is_one_pass_for_each_token_after(mixture: Mixture, token_ids: Tensor) -> None:
    asked = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "scalings_frozen_after": 3}

    # Two for the prompt and for each of three tokens; the last token passes nothing.
    assert passes(mixture(), token_ids, **asked) == 2 * (1 + 3) + NEW_TOKENS - 1 - 3


def test_what_frozen_scalings_cannot_do_is_refused(mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"scalings_frozen_after": -1}, "scalings_frozen_after must be a number of tokens"),
        ({"num_beams": 2}, "left out with beams"),
        ({"prompt_lookup_num_tokens": 2}, "left out with drafts"),
        ({"use_cache": False}, "use_cache must be true with scalings_frozen_after"),
    ]
    for asked, reason in refused:
        with pytest.raises(ConfigInvalid, match=reason):
            generate(model, token_ids[:1], **({"scalings_frozen_after": 2} | asked))


def test_a_cache_that_one_pass_went_on_with_alone_is_refused_until_it_is_reset(
    mixture: Mixture, token_ids: Tensor
) -> None:
    model = mixture()
    cache = generate(model, token_ids, scalings_frozen_after=2, return_dict_in_generate=True).cache

    for call in (model, model.generate):
        with pytest.raises(CacheUnsupported, match="the scaling pass has not seen all tokens of this cache"):
            call(token_ids, cache=cache)
    cache.reset()
    with torch.no_grad():
        torch.testing.assert_close(model(token_ids, cache=cache).logits, model(token_ids).logits)
