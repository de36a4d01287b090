"""Scores of answers: loss by teacher forcing, exact match as greedy decoding would give it."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from xlora_engine.data.chat import ChatTokenizer, EncodedExample, collate, length_grouped, pad_token
from xlora_engine.data.shared_prefix import repeated, shared_prefix
from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import ConfigInvalid, ScoreNotFinite

#: How many tokens more than the expected answer a differently written one may have.
EXTRA_TOKENS = 8


class LogitsCall(Protocol):
    """Runs a base model, an adapter or a mixture."""

    def __call__(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"],
        position_ids: Int[Tensor, "batch seq"],
        logits_to_keep: int,
        cache: Cache | None,
    ) -> Float[Tensor, "batch kept vocabulary"]:
        """Logits of the last `logits_to_keep` positions, of tokens that follow those in the cache."""


class GenerateCall(Protocol):
    """Generates greedily."""

    def __call__(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"],
        max_new_tokens: int,
    ) -> Int[Tensor, "batch longer"]:
        """The prompts and what follows them."""


@dataclass(frozen=True, kw_only=True)
class AnswerScores:
    """Scores of some examples, in their order."""

    #: Mean loss (nats) over each example's answer tokens.
    example_losses: tuple[float, ...]
    #: 1 where greedy decoding gives the answer, after normalisation.
    example_matches: tuple[float, ...]
    #: Answer tokens in each example.
    example_tokens: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.example_losses)

    @property
    def loss(self) -> float:
        """Mean loss (nats) over all answer tokens."""
        total = sum(
            loss * tokens for loss, tokens in zip(self.example_losses, self.example_tokens, strict=True)
        )
        return total / sum(self.example_tokens)

    @property
    def loss_standard_error(self) -> float:
        """Standard error of that mean: of a ratio estimator, as examples differ in their number of tokens."""
        mean, per_example = self.loss, sum(self.example_tokens) / self.n
        return _standard_error(
            [
                (loss - mean) * tokens / per_example
                for loss, tokens in zip(self.example_losses, self.example_tokens, strict=True)
            ]
        )

    @property
    def exact_match(self) -> float:
        """Share of examples answered exactly."""
        return fmean(self.example_matches)

    @property
    def exact_match_standard_error(self) -> float:
        """Standard error of that share."""
        return _standard_error(self.example_matches)


def score_answers(
    logits_call: LogitsCall,
    generate_call: GenerateCall,
    tokenizer: ChatTokenizer,
    examples: Sequence[EncodedExample],
    *,
    new_cache: Callable[[], Cache],
    tokens_per_batch: int,
    device: torch.device,
    stops: Collection[int] = (),
) -> AnswerScores:
    """Loss and exact match of every example's answer; `stops` are further tokens that end one.

    Tokens that all examples begin with are run once, into the empty cache that `new_cache` makes.

    Greedy decoding agrees with teacher forcing up to the first token where the likeliest is not the
    answer's, so one forward decides nearly every match; only an example whose answer may still be
    right in other tokens is generated, from that token on.

    Raises:
        ConfigInvalid: there are no examples.
        ScoreNotFinite: an answer's loss is NaN or infinite.
    """
    if not examples:
        raise ConfigInvalid("examples", "at least one", 0)
    pad_id = pad_token(tokenizer)
    losses: dict[int, float] = {}
    matches: dict[int, bool] = {}
    undecided: dict[int, tuple[int, ...]] = {}
    with torch.no_grad():
        cache = new_cache()
        # With sliding windows, the padding of a shorter example would push the prefix out of them.
        prefix = () if any(cache.is_sliding) else shared_prefix(examples)
        if prefix:
            _run_prefix(logits_call, prefix, cache, device=device)
        own = [example.after(len(prefix)) for example in examples]
        for indices in length_grouped(own, tokens_per_batch=tokens_per_batch):
            batch = collate([own[index] for index in indices], pad_id=pad_id).to(device)
            logits = logits_call(
                batch.input_ids,
                F.pad(batch.attention_mask, (len(prefix), 0), value=1),
                batch.position_ids + len(prefix),
                batch.keep,
                repeated(cache, len(indices)) if prefix else None,
            )
            for index, example_logits in zip(indices, logits, strict=True):
                losses[index], predicted = _forced(example_logits, examples[index])
                _require_finite(losses[index], index, logits.dtype)
                decided = decide(tokenizer, examples[index], predicted, stops=stops)
                if decided is None:
                    undecided[index] = _prefix_of_greedy(examples[index], predicted)
                else:
                    matches[index] = decided
        matches |= _generated_matches(
            generate_call,
            tokenizer,
            examples,
            undecided,
            tokens_per_batch=tokens_per_batch,
            device=device,
            stops=stops,
        )
    return AnswerScores(
        example_losses=tuple(losses[index] for index in range(len(examples))),
        example_matches=tuple(float(matches[index]) for index in range(len(examples))),
        example_tokens=tuple(len(example.answer_ids) for example in examples),
    )


def _run_prefix(
    logits_call: LogitsCall, token_ids: Sequence[int], cache: Cache, *, device: torch.device
) -> None:
    input_ids = upload([list(token_ids)], device)
    positions = torch.arange(len(token_ids), device=device)[None]
    logits_call(input_ids, torch.ones_like(input_ids), positions, 1, cache)


def decide(
    tokenizer: ChatTokenizer,
    example: EncodedExample,
    predicted: Sequence[int],
    *,
    stops: Collection[int] = (),
) -> bool | None:
    """Whether greedy decoding gives the answer, from the likeliest token at each of its positions.

    None if teacher forcing cannot decide: the first other token may begin another way to write the
    same answer.
    """
    beginning = _prefix_of_greedy(example, predicted)
    if beginning == example.answer_ids:
        return True
    if beginning[-1] in _stops(tokenizer, example, stops):
        return _is_answer(tokenizer, example, beginning, stops)
    expected = normalise(_text(tokenizer, example.answer_ids))
    text = " ".join(_text(tokenizer, beginning).casefold().split())
    # A lone byte of a longer character decodes to the replacement sign: it can still become anything.
    possible = "\ufffd" in text or f"{expected}.".startswith(text) or f"{expected} .".startswith(text)
    return None if possible else False


def normalise(text: str) -> str:
    """Text as exact match compares it: one case, single spaces, no final full stop."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def _forced(logits: Float[Tensor, "kept vocabulary"], example: EncodedExample) -> tuple[float, list[int]]:
    """Mean loss of the answer's tokens, and the likeliest token at each of their positions."""
    ahead = logits[-len(example.answer_ids) - 1 : -1].float()
    targets = upload(example.answer_ids, logits.device)
    return float(F.cross_entropy(ahead, targets)), ahead.argmax(-1).tolist()


def _require_finite(loss: float, index: int, dtype: torch.dtype) -> None:
    if not math.isfinite(loss):
        computed_in = str(dtype).removeprefix("torch.")
        raise ScoreNotFinite(
            f"the loss of example {index + 1} is {loss}: weights of the base model or an adapter, or what is "
            f"computed with them in {computed_in}, are not finite"
        )


def _prefix_of_greedy(example: EncodedExample, predicted: Sequence[int]) -> tuple[int, ...]:
    """The beginning of greedy decoding: the answer up to and including the first token that differs."""
    answer = example.answer_ids
    differing = next((i for i, (a, p) in enumerate(zip(answer, predicted, strict=True)) if a != p), None)
    return answer if differing is None else (*answer[:differing], predicted[differing])


def _generated_matches(
    generate_call: GenerateCall,
    tokenizer: ChatTokenizer,
    examples: Sequence[EncodedExample],
    undecided: Mapping[int, tuple[int, ...]],
    *,
    tokens_per_batch: int,
    device: torch.device,
    stops: Collection[int],
) -> dict[int, bool]:
    """Matches by example index, from generating after each undecided example's beginning."""
    order = list(undecided)
    prompts = [
        EncodedExample(
            token_ids=examples[index].token_ids[: examples[index].prompt_length] + undecided[index],
            prompt_length=examples[index].prompt_length,
        )
        for index in order
    ]
    matches = {}
    for group in length_grouped(prompts, tokens_per_batch=tokens_per_batch):
        batch = collate([prompts[number] for number in group], pad_id=pad_token(tokenizer)).to(device)
        limits = [_token_limit(examples[order[number]]) - len(undecided[order[number]]) for number in group]
        out = generate_call(batch.input_ids, batch.attention_mask, max(limits))
        for number, limit, new in zip(
            group, limits, out[:, batch.input_ids.shape[1] :].tolist(), strict=True
        ):
            index = order[number]
            matches[index] = _is_answer(tokenizer, examples[index], (*undecided[index], *new[:limit]), stops)
    return matches


def _token_limit(example: EncodedExample) -> int:
    return len(example.answer_ids) + EXTRA_TOKENS


def _is_answer(
    tokenizer: ChatTokenizer, example: EncodedExample, generated: Sequence[int], stops: Collection[int]
) -> bool:
    """Whether the generated tokens end, and equal the answer as text."""
    ends = _stops(tokenizer, example, stops)
    end = next((i for i, token in enumerate(generated) if token in ends), None)
    if end is None:
        return False
    return normalise(_text(tokenizer, generated[:end])) == normalise(_text(tokenizer, example.answer_ids))


def _stops(tokenizer: ChatTokenizer, example: EncodedExample, stops: Collection[int]) -> Collection[int]:
    """Tokens that end an answer; padding follows an answer that ended with another end token."""
    return {tokenizer.eos_token_id, pad_token(tokenizer), example.answer_ids[-1], *stops}


def _text(tokenizer: ChatTokenizer, token_ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
