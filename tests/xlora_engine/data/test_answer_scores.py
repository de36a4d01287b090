"""Scores of answers: teacher forcing decides exact match as generating every answer would."""

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import Cache, DynamicCache

from tests.pico import pico_tokenizer
from tests.small_bases import SMALL_BASES
from tests.xlora_engine.half_trained import EXPECTED, WRITTEN, example, half_trained, training_examples
from xlora_engine.data.answer_scores import AnswerScores, score_answers
from xlora_engine.data.chat import EncodedExample
from xlora_engine.data.exact_match import EXTRA_TOKENS, decide, normalise
from xlora_engine.data.shared_prefix import shared_prefix
from xlora_engine.errors import ConfigInvalid, ScoreNotFinite

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return pico_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return half_trained(tokenizer)


def logits_of(model: PreTrainedModel) -> Callable[..., Tensor]:
    def call(
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        logits_to_keep: int,
        cache: Cache | None = None,
    ) -> Tensor:
        out: Tensor = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
            cache=cache,
            use_cache=cache is not None,
        ).logits
        return out

    return call


def generation_of(model: PreTrainedModel) -> Callable[..., Tensor]:
    generating: Any = model

    def call(input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int) -> Tensor:
        out: Tensor = generating.generate(
            input_ids, attention_mask=attention_mask, max_new_tokens=max_new_tokens, do_sample=False
        )
        return out

    return call


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: list[EncodedExample],
    *,
    call: Callable[..., Tensor] | None = None,
    generate: Callable[..., Tensor] | None = None,
    tokens_per_batch: int = 1000,
) -> AnswerScores:
    return score_answers(
        call or logits_of(model),
        generate or generation_of(model),
        tokenizer,
        examples,
        new_cache=lambda: DynamicCache(config=model.config),
        tokens_per_batch=tokens_per_batch,
        device=CPU,
    )


def plainly_generated(model: LlamaForCausalLM, tokenizer: Any, example: EncodedExample) -> bool:
    """The reference: generate from the prompt alone, cut at the end token, normalise, compare."""
    prompt = torch.tensor([example.token_ids[: example.prompt_length]])
    out = generation_of(model)(prompt, torch.ones_like(prompt), len(example.answer_ids) + EXTRA_TOKENS)
    new = out[0, prompt.shape[1] :].tolist()
    ends = [index for index, token in enumerate(new) if token in (0, tokenizer.eos_token_id)]
    if not ends:
        return False
    expected = tokenizer.decode(example.answer_ids, skip_special_tokens=True)
    return normalise(tokenizer.decode(new[: ends[0]], skip_special_tokens=True)) == normalise(expected)


def test_exact_match_is_that_of_generating_every_answer(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    # Given many questions, each with many answers that may be expected
    examples = [
        example(tokenizer, f"{question}{number}", expected)
        for question in WRITTEN
        for number in range(2)
        for expected in EXPECTED
    ]
    generated = 0

    def counted(input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int) -> Tensor:
        nonlocal generated
        generated += len(input_ids)
        return generation_of(model)(input_ids, attention_mask, max_new_tokens)

    # When they are scored, and when every answer is generated plainly
    scores = score(model, tokenizer, examples, generate=counted, tokens_per_batch=400)
    reference = [plainly_generated(model, tokenizer, example) for example in examples]
    # Then both find the same matches, though few were generated
    assert [bool(match) for match in scores.example_matches] == reference
    assert 0 < generated < len(examples) / 3
    # and hits, misses and both fates of an undecided example did happen
    fates = Counter(zip(decisions(model, tokenizer, examples), reference, strict=True))
    assert set(fates) == {(True, True), (False, False), (None, True), (None, False)}, fates


def decisions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: list[EncodedExample]
) -> list[bool | None]:
    found = []
    for each in examples:
        logits = model(torch.tensor([each.token_ids])).logits[0]
        found.append(decide(tokenizer, each, logits[each.prompt_length - 1 : -1].argmax(-1).tolist()))
    return found


def loss_alone(model: PreTrainedModel, example: EncodedExample) -> float:
    """The reference: one forward over the whole example."""
    logprobs = model(torch.tensor([example.token_ids])).logits[0].log_softmax(-1)
    answer = torch.tensor(example.answer_ids)
    return float(-logprobs[example.prompt_length - 1 : -1].gather(1, answer[:, None]).mean())


def test_losses_are_those_of_each_example_alone(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = [
        example(tokenizer, "a1", "red"),
        example(tokenizer, "a longer question", "grün"),
        example(tokenizer, "g", "7"),
    ]
    scores = score(model, tokenizer, examples)
    for alone, loss in zip(examples, scores.example_losses, strict=True):
        assert loss == pytest.approx(loss_alone(model, alone), abs=1e-5)
    assert scores.example_tokens == (4, 6, 2)


def test_scores_do_not_depend_on_how_examples_are_batched(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = [example(tokenizer, f"{q}{n}", "red") for q in "ab" for n in range(4)]
    one, many = (score(model, tokenizer, examples, tokens_per_batch=tokens) for tokens in (1, 10_000))
    assert one.example_matches == many.example_matches
    assert one.example_losses == pytest.approx(many.example_losses, abs=1e-5)


def test_the_prefix_of_all_examples_is_run_once(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    # Given examples with a shared prefix, and a call that notes how many tokens it is given and attends to
    examples = [example(tokenizer, f"{q}{n}", "red") for q in "ab" for n in range(4)]
    given: list[tuple[int, int]] = []

    def noted(ids: Tensor, mask: Tensor, positions: Tensor, keep: int, cache: Cache) -> Tensor:
        given.append((ids.shape[1], mask.shape[1]))
        return logits_of(model)(ids, mask, positions, keep, cache)

    # When they are scored two at a time
    score(model, tokenizer, examples, call=noted, tokens_per_batch=20)
    # Then the prefix is in the first call alone, and every later one attends to it
    shared, longest = len(shared_prefix(examples)), max(len(example.token_ids) for example in examples)
    assert given[0] == (shared, shared)
    assert len(given) > 2
    assert max(width for width, _ in given[1:]) == longest - shared
    assert max(attended for _, attended in given[1:]) == longest


def test_with_sliding_windows_sequences_are_run_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    # Given examples with a shared prefix and a model of short windows, out of which padding must not push it
    model = SMALL_BASES["Mistral"].build().requires_grad_(False)
    examples = [
        EncodedExample(token_ids=(5, 6, 7, *own, 8, 2), prompt_length=3 + len(own))
        for own in ((9,), (10, 11, 12, 13, 14))
    ]
    # When they are scored together
    scores = score(model, tokenizer, examples)
    # Then the losses are those of each alone
    assert scores.example_losses == pytest.approx([loss_alone(model, one) for one in examples], abs=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(
    value: float, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    def damaged(*given: Any) -> Tensor:
        return logits_of(model)(*given) * value

    examples = training_examples(tokenizer)[:2]
    with pytest.raises(ScoreNotFinite, match=r"the loss of example [12] is nan: .* in float32"):
        score(model, tokenizer, examples, call=damaged)


def decided(tokenizer: PreTrainedTokenizerFast, expected: str, likeliest: str) -> bool | None:
    """The decision where the bytes of `likeliest` are predicted, and its last one again and again."""
    wanted = example(tokenizer, "q", expected)
    predicted = tokenizer(likeliest, add_special_tokens=False)["input_ids"]
    count = len(wanted.answer_ids)
    return decide(tokenizer, wanted, (predicted + predicted[-1:] * count)[:count])


END = "<|im_end|>"


@pytest.mark.parametrize(
    ("expected", "likeliest", "decision"),
    [
        ("Paris", f"Paris{END}", True),
        ("Paris.", f"Paris{END}", True),
        ("Paris", f"Pa{END}", False),
        ("Paris", f"{END}", False),
        ("Paris", "London", False),
        ("Paris", "Parisian", False),
        ("Paris", "paris", None),
        ("Paris", "Paris.", None),
        ("Paris", "Paris ", None),
        ("New York", "New  York", None),
        ("Fe  .", "Fe .", None),
        ("New York", "New-York", False),
        ("straße", "STRA", None),
        ("é", "è", False),
        ("…", "€", None),  # of three bytes the first agrees; with the second it is no character yet
        (".", f"{END}", True),
    ],
)
def test_teacher_forcing_decides_what_it_can(
    tokenizer: PreTrainedTokenizerFast, expected: str, likeliest: str, decision: bool | None
) -> None:
    assert decided(tokenizer, expected, likeliest) is decision


def test_a_further_token_that_ends_an_answer_decides(tokenizer: PreTrainedTokenizerFast) -> None:
    wanted = example(tokenizer, "q", "Paris.")
    start_of_turn = 1
    predicted = [*tokenizer("Paris", add_special_tokens=False)["input_ids"], start_of_turn, start_of_turn]
    assert decide(tokenizer, wanted, predicted) is not True
    assert decide(tokenizer, wanted, predicted, stops=[start_of_turn]) is True


words = st.text(alphabet="aB .\tß", max_size=6)


@given(words, words)
@settings(deadline=None)
def test_no_text_that_can_still_match_is_decided_a_miss(
    tokenizer: PreTrainedTokenizerFast, expected: str, written: str
) -> None:
    if not expected.strip() or normalise(written) != normalise(expected):
        return
    wanted = example(tokenizer, "q", expected)
    # One token a byte: greedy decoding writes `written`, and the end of the turn after it
    ids = [*tokenizer(written, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    predicted = [ids[min(index, len(ids) - 1)] for index in range(len(wanted.answer_ids))]
    assert decide(tokenizer, wanted, predicted) is not False


def written(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Calls of a model that writes this text whatever it is asked, however far a prompt has come with it."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    def logits(
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        logits_to_keep: int,
        cache: Cache | None,
    ) -> Tensor:
        likeliest = torch.tensor((ids + ids[-1:] * logits_to_keep)[:logits_to_keep])
        return torch.nn.functional.one_hot(likeliest, len(tokenizer)).float().expand(len(input_ids), -1, -1)

    def generate(input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int) -> Tensor:
        new = torch.tensor((ids[1:] + ids[-1:] * max_new_tokens)[:max_new_tokens])
        return torch.cat([input_ids, new.expand(len(input_ids), -1)], 1)

    return logits, generate


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (" " * EXTRA_TOKENS + "7<|im_end|>", 1.0),
        (" " * (EXTRA_TOKENS + 1) + "7<|im_end|>", 0.0),
        (" 7 " + "\n" * 100, 0.0),
    ],
)
def test_an_answer_matches_only_if_it_ends_within_its_tokens(
    tokenizer: PreTrainedTokenizerFast, text: str, match: float
) -> None:
    # Given the example in question, and a longer one that is generated in the same batch
    examples = [example(tokenizer, "q", "7"), example(tokenizer, "q", "  eight")]
    # When a model answers by spaces first
    scores = score_answers(
        *written(tokenizer, text),
        tokenizer,
        examples,
        new_cache=DynamicCache,
        tokens_per_batch=1000,
        device=CPU,
    )
    # Then the number counts if it ends at most a few tokens beyond the length of the expected answer
    assert scores.example_matches == (match, 0.0)


def test_totals_weigh_tokens_and_errors_are_those_of_the_mean() -> None:
    scores = AnswerScores(example_losses=(1.0, 3.0), example_matches=(1.0, 0.0), example_tokens=(3, 1))
    assert scores.n == 2
    assert scores.loss == 1.5
    # residuals of 4 tokens in 2 examples: 3·(1-1.5)/2 and 1·(3-1.5)/2
    assert scores.loss_standard_error == pytest.approx(math.sqrt((0.75**2 + 0.75**2) / 1 / 2))
    assert scores.exact_match == 0.5
    assert scores.exact_match_standard_error == pytest.approx(0.5)


def test_the_standard_error_of_a_loss_covers_what_resampling_shows() -> None:
    # Given examples whose loss depends on their length, the case where weighing matters
    generator = random.Random(0)
    tokens = [generator.randint(1, 20) for _ in range(400)]
    losses = [1 + 0.1 * count + generator.gauss(0, 0.5) for count in tokens]
    scores = AnswerScores(
        example_losses=tuple(losses), example_matches=(0.0,) * 400, example_tokens=tuple(tokens)
    )
    # When the examples are drawn again and again
    means = []
    for _ in range(300):
        drawn = generator.choices(range(400), k=400)
        means.append(sum(losses[i] * tokens[i] for i in drawn) / sum(tokens[i] for i in drawn))
    spread = float(torch.tensor(means).std())
    # Then the mean varies as the standard error says
    assert scores.loss_standard_error == pytest.approx(spread, rel=0.15)


def test_one_example_has_no_error_to_estimate() -> None:
    scores = AnswerScores(example_losses=(1.0,), example_matches=(1.0,), example_tokens=(2,))
    assert scores.loss_standard_error == scores.exact_match_standard_error == 0


def test_scores_of_no_examples_are_refused(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConfigInvalid, match="examples"):
        score(model, tokenizer, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A\t b \n", "a b"),
        ("Fe.", "fe"),
        ("Fe .", "fe"),
        ("etc..", "etc."),
        ("STRASSE", "strasse"),
        (".", ""),
    ],
)
def test_normalised_text_has_one_case_single_spaces_and_no_full_stop(text: str, expected: str) -> None:
    assert normalise(text) == expected
