"""Several guesses at once change how long generation takes, and nothing else, however good they are."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.xlora_engine.conftest import Collected, Mixture
from tests.xlora_engine.decoding.forwards import count_forwards
from xlora_engine.decoding.coupled_sampling import CoupledSampling
from xlora_engine.decoding.decoder import Decoder
from xlora_engine.decoding.joint_cache import LEAST_GROWTH
from xlora_engine.decoding.lookup_drafts import LookupDrafts, MakeDrafts
from xlora_engine.model import XLoraModel

NEW_TOKENS = 24

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20},
    "penalties": {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 4},
}


class KnownDrafts:
    """Drafts from a known text, with a wrong token at every `wrong_every`-th index."""

    def __init__(self, text: Sequence[int], known: int, *, wrong_every: int | None) -> None:
        self._text, self._known, self._wrong_every = text, known, wrong_every

    def append(self, token: int) -> None:
        self._known += 1

    def following(self, ahead: Sequence[int], most: int) -> list[int]:
        start = self._known + len(ahead)
        indices = range(start, min(start + most, len(self._text)))
        return [(self._text[index] + self._is_wrong(index)) % 259 for index in indices]

    def _is_wrong(self, index: int) -> bool:
        return self._wrong_every is not None and index % self._wrong_every == 0


class NoDrafts:
    """So that the base model alone guesses."""

    def __init__(self, prompt: Sequence[int]) -> None:
        pass

    def append(self, token: int) -> None:
        pass

    def following(self, ahead: Sequence[int], most: int) -> list[int]:
        return []


def of_text(text: Tensor, *, wrong_every: int | None = None) -> MakeDrafts:
    return lambda _: KnownDrafts(text[0].tolist(), text.shape[1] - NEW_TOKENS, wrong_every=wrong_every)


#: Name -> from what plain decoding gives, the drafts.
DRAFTS: dict[str, Callable[[Tensor], MakeDrafts]] = {
    "what followed before": lambda _: LookupDrafts,
    "all right": of_text,
    "all wrong": lambda text: of_text(text, wrong_every=1),
    "every third wrong": lambda text: of_text(text, wrong_every=3),
    "every seventh wrong": lambda text: of_text(text, wrong_every=7),
}


def generate(model: XLoraModel, prompt: Tensor, make_drafts: MakeDrafts | None, **asked: Any) -> Any:
    """Plainly, with two caches, where there are no drafts to be made."""
    torch.manual_seed(7)
    fields = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, **asked}
    if make_drafts is None:
        return Decoder(model, prefetch_scalings=False).generate(prompt, **fields)
    return Decoder(model, make_drafts=make_drafts).generate(prompt, **fields)


@pytest.fixture(scope="module")
def model(mixture: Mixture) -> XLoraModel:
    """Experts weak enough that the base model often guesses right, but not always."""
    return mixture(global_scaling_weight=0.3)


@pytest.fixture(scope="module", params=["", "repeats itself", "left-padded"])
def fields(request: pytest.FixtureRequest, token_ids: Tensor) -> dict[str, Tensor]:
    """A prompt, as the arguments of `generate`."""
    if request.param == "repeats itself":
        return {"inputs": token_ids[:1, :5].repeat(1, 3)}
    if request.param == "left-padded":
        padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), token_ids[:1]], 1)
        return {"inputs": padded, "attention_mask": (padded != 0).long()}
    return {"inputs": token_ids[:1]}


def forwards(model: XLoraModel, prompt: Tensor, make_drafts: MakeDrafts, **asked: Any) -> int:
    """How often the base model's decoder ran after the prompt."""
    return count_forwards(model, lambda: generate(model, prompt, make_drafts, **asked)) - 2


def assert_equal_outputs(drafted: Any, plain: Any, *, padding: int = 0) -> None:
    """Tokens, logits and caches; the values of padding are undefined."""
    assert torch.equal(drafted.sequences, plain.sequences)
    for name in ("scores", "logits"):
        torch.testing.assert_close(
            torch.stack(getattr(drafted, name)), torch.stack(getattr(plain, name)), rtol=0, atol=1e-4
        )
    for half in ("scaling", "mixture"):
        found, expected = getattr(drafted.cache, half), getattr(plain.cache, half)
        for ours, theirs in zip(found.layers, expected.layers, strict=True):
            for name in ("keys", "values"):
                torch.testing.assert_close(
                    getattr(ours, name)[:, :, padding:],
                    getattr(theirs, name)[:, :, padding:],
                    rtol=0,
                    atol=1e-4,
                )
        assert found.get_seq_length() == expected.get_seq_length()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("drafts", DRAFTS)
def test_tokens_are_those_of_plain_decoding(
    drafts: str, way: str, fields: dict[str, Tensor], model: XLoraModel
) -> None:
    asked: dict[str, Any] = dict(fields) | WAYS[way]
    prompt = asked.pop("inputs")
    plain = generate(model, prompt, None, **asked)
    state = torch.random.get_rng_state()

    drafted = generate(model, prompt, DRAFTS[drafts](plain), **asked)

    assert torch.equal(drafted, plain)
    assert torch.equal(torch.random.get_rng_state(), state), "nothing is left drawn ahead"


@pytest.mark.parametrize("drafts", DRAFTS)
def test_experts_may_be_active_in_the_scaling_pass(drafts: str, mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture(global_scaling_weight=0.3, scaling_pass_value=0.5)
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    plain = generate(model, token_ids[:1], None, **asked)

    assert_equal_outputs(generate(model, token_ids[:1], DRAFTS[drafts](plain.sequences), **asked), plain)


@pytest.mark.parametrize("way", ["greedy", "sampling"])
def test_right_drafts_save_most_forwards(way: str, mixture: Mixture, token_ids: Tensor) -> None:
    strong, asked = mixture(), WAYS[way]
    plain = generate(strong, token_ids[:1], None, **asked)

    assert forwards(strong, token_ids[:1], NoDrafts, **asked) > NEW_TOKENS
    assert forwards(strong, token_ids[:1], of_text(plain), **asked) <= NEW_TOKENS // 3


def test_a_text_that_repeats_itself_is_looked_up(model: XLoraModel, token_ids: Tensor) -> None:
    """Though the base model never guesses it: it knows nothing of a processor of the caller's own."""

    def goes_round(input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, 40 + input_ids.shape[1] % 5] += 1e4
        return scores

    asked = {"max_new_tokens": 80, "min_new_tokens": 80, "logits_processor": [goes_round]}

    assert forwards(model, token_ids[:1], NoDrafts, **asked) > 150
    assert forwards(model, token_ids[:1], LookupDrafts, **asked) < 40


def test_wrong_drafts_soon_cost_no_forward(model: XLoraModel, token_ids: Tensor) -> None:
    plain = generate(model, token_ids[:1], None)

    wrong, none = (forwards(model, token_ids[:1], make) for make in (of_text(plain, wrong_every=1), NoDrafts))

    assert none <= wrong <= none + 2


@pytest.mark.parametrize("new_tokens", range(1, 12))
def test_a_run_of_right_drafts_stops_at_the_longest_length(
    new_tokens: int, model: XLoraModel, token_ids: Tensor
) -> None:
    plain = generate(model, token_ids[:1], None)

    drafted = generate(
        model, token_ids[:1], of_text(plain), max_new_tokens=new_tokens, min_new_tokens=new_tokens
    )

    assert torch.equal(drafted, plain[:, : token_ids.shape[1] + new_tokens])


@pytest.mark.parametrize("position", range(1, 12))
def test_a_run_of_right_drafts_ends_with_the_text(position: int, mixture: Mixture, token_ids: Tensor) -> None:
    model = mixture()
    # Sampled, so that few tokens come twice; without a least length, whose processor would ban the end.
    asked: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "min_new_tokens": 0}
    whole = generate(model, token_ids[:1], None, **asked, eos_token_id=1)
    asked["eos_token_id"] = int(whole[0, token_ids.shape[1] + position])
    asked |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    plain = generate(model, token_ids[:1], None, **asked)
    assert plain.sequences.shape[1] == token_ids.shape[1] + position + 1
    state = torch.random.get_rng_state()

    drafted = generate(model, token_ids[:1], of_text(whole), **asked)

    assert_equal_outputs(drafted, plain)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_streamer_gets_token_by_token(model: XLoraModel, token_ids: Tensor) -> None:
    plain, streamer = generate(model, token_ids[:1], None), Collected()

    generate(model, token_ids[:1], of_text(plain, wrong_every=7), streamer=streamer)

    prompt = token_ids.shape[1]
    assert streamer.parts == [plain[0, :prompt].tolist(), *([token] for token in plain[0, prompt:].tolist())]
    assert streamer.ended


def test_what_has_a_state_is_asked_once_a_token_in_order(model: XLoraModel, token_ids: Tensor) -> None:
    seen: list[list[int]] = []
    stopped: list[int] = []

    def bans_what_it_counts(input_ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(input_ids[0].tolist())
        scores[:, len(seen) * 5 % scores.shape[1]] = -float("inf")
        return scores

    def never(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        stopped.append(input_ids.shape[1])
        return torch.zeros(len(input_ids), dtype=torch.bool)

    asked = {"logits_processor": [bans_what_it_counts], "stopping_criteria": [never]}
    plain = generate(model, token_ids[:1], None, **asked)
    expected = seen.copy(), stopped.copy()
    for wrong_every in (None, 1, 3):
        seen.clear()
        stopped.clear()
        drafted = generate(model, token_ids[:1], of_text(plain, wrong_every=wrong_every), **asked)
        assert torch.equal(drafted, plain)
        assert (seen, stopped) == expected


@pytest.mark.parametrize("drafts", DRAFTS)
def test_everything_returned_is_that_of_plain_decoding(
    drafts: str, fields: dict[str, Tensor], model: XLoraModel
) -> None:
    asked: dict[str, Any] = dict(fields) | {
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    prompt = asked.pop("inputs")
    plain = generate(model, prompt, None, **asked)

    drafted = generate(model, prompt, DRAFTS[drafts](plain.sequences), **asked)

    assert_equal_outputs(drafted, plain, padding=int((prompt == 0).sum()))


def test_generation_goes_on_from_the_cache_it_returned(model: XLoraModel, token_ids: Tensor) -> None:
    plain = generate(model, token_ids[:1], None)
    first = generate(
        model, token_ids[:1], of_text(plain), max_new_tokens=6, min_new_tokens=6, return_dict_in_generate=True
    )

    rest = generate(
        model, first.sequences, LookupDrafts, max_new_tokens=18, min_new_tokens=18, cache=first.cache
    )

    assert torch.equal(rest, plain)


def test_buffers_grow_and_drop_unused_columns(model: XLoraModel, token_ids: Tensor) -> None:
    tokens = LEAST_GROWTH + 20
    asked = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    asked |= {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    plain = generate(model, token_ids[:1], None, **asked)
    text = plain.sequences[0].tolist()

    drafted = generate(
        model, token_ids[:1], lambda prompt: KnownDrafts(text, len(prompt), wrong_every=5), **asked
    )

    assert_equal_outputs(drafted, plain)


def test_input_embeddings_are_decoded_to_the_same_tokens(model: XLoraModel, token_ids: Tensor) -> None:
    embeddings = model.base.get_input_embeddings()(token_ids[:1])
    asked: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}

    drafted, plain = (
        model.generate(inputs_embeds=embeddings, prefetch_scalings=prefetches, **asked)
        for prefetches in (True, False)
    )

    assert torch.equal(drafted, plain)


def test_noise_of_later_steps_is_drawn_in_order_and_given_back() -> None:
    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    drawn = [int(torch.multinomial(scores.softmax(-1), num_samples=1)) for _ in range(6)]
    torch.manual_seed(3)
    for _ in range(4):
        torch.multinomial(scores.softmax(-1), num_samples=1)
    state = torch.random.get_rng_state()

    torch.manual_seed(3)
    choose = CoupledSampling(samples=True)
    assert int(choose(scores, ahead=5)) == drawn[5]
    for expected in drawn[:4]:
        assert int(choose(scores)) == expected
        choose.next_step()
    assert int(choose(scores, ahead=1)) == drawn[5]
    choose.close()
    assert torch.equal(torch.random.get_rng_state(), state)
