"""Scores of answers: loss by teacher forcing, exact match as greedy decoding would give it."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from xlora_engine.data.chat import ChatTokenizer, EncodedExample, collate, length_grouped, pad_token
from xlora_engine.data.exact_match import decide, greedy_beginning, is_answer, token_limit
from xlora_engine.data.shared_prefix import can_share, repeated, shared_prefix
from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import ConfigInvalid, ScoreNotFinite


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

    def first(self, count: int) -> "AnswerScores":
        """Those of the first examples."""
        return AnswerScores(
            example_losses=self.example_losses[:count],
            example_matches=self.example_matches[:count],
            example_tokens=self.example_tokens[:count],
        )

    def followed_by(self, more: "AnswerScores") -> "AnswerScores":
        """These and those of the examples after them."""
        return AnswerScores(
            example_losses=self.example_losses + more.example_losses,
            example_matches=self.example_matches + more.example_matches,
            example_tokens=self.example_tokens + more.example_tokens,
        )

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
    losses: dict[int, float] = {}
    matches: dict[int, bool] = {}
    undecided: dict[int, tuple[int, ...]] = {}
    with torch.no_grad():
        for index, loss, predicted in _forced(
            logits_call,
            tokenizer,
            examples,
            new_cache=new_cache,
            tokens_per_batch=tokens_per_batch,
            device=device,
        ):
            losses[index] = loss
            decided = decide(tokenizer, examples[index], predicted, stops=stops)
            if decided is None:
                undecided[index] = greedy_beginning(examples[index], predicted)
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


def answer_losses(
    logits_call: LogitsCall,
    tokenizer: ChatTokenizer,
    examples: Sequence[EncodedExample],
    *,
    new_cache: Callable[[], Cache],
    tokens_per_batch: int,
    device: torch.device,
) -> tuple[float, ...]:
    """Mean loss (nats) over each example's answer tokens, as in `score_answers`; nothing is generated.

    Raises:
        ConfigInvalid: there are no examples.
        ScoreNotFinite: an answer's loss is NaN or infinite.
    """
    with torch.no_grad():
        losses = {
            index: loss
            for index, loss, _ in _forced(
                logits_call,
                tokenizer,
                examples,
                new_cache=new_cache,
                tokens_per_batch=tokens_per_batch,
                device=device,
            )
        }
    return tuple(losses[index] for index in range(len(examples)))


def _forced(
    logits_call: LogitsCall,
    tokenizer: ChatTokenizer,
    examples: Sequence[EncodedExample],
    *,
    new_cache: Callable[[], Cache],
    tokens_per_batch: int,
    device: torch.device,
) -> Iterator[tuple[int, float, list[int]]]:
    """Every example's index, mean loss, and the likeliest token at each of its answer's positions."""
    if not examples:
        raise ConfigInvalid("examples", "at least one", 0)
    pad_id = pad_token(tokenizer)
    cache = new_cache()
    prefix = shared_prefix(examples) if can_share(cache, left_padded=True) else ()
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
            example = examples[index]
            loss, predicted = teacher_forced(example_logits[-len(example.answer_ids) - 1 : -1], example)
            require_finite(loss, index, logits.dtype)
            yield index, loss, predicted


def _run_prefix(
    logits_call: LogitsCall, token_ids: Sequence[int], cache: Cache, *, device: torch.device
) -> None:
    input_ids = upload([list(token_ids)], device)
    positions = torch.arange(len(token_ids), device=device)[None]
    logits_call(input_ids, torch.ones_like(input_ids), positions, 1, cache)


def teacher_forced(
    ahead: Float[Tensor, "answer vocabulary"], example: EncodedExample
) -> tuple[float, list[int]]:
    """Mean loss of an answer's tokens, and the likeliest token at each, from the logits before each."""
    logits = ahead.float()
    targets = upload(example.answer_ids, logits.device)
    return float(F.cross_entropy(logits, targets)), logits.argmax(-1).tolist()


def require_finite(loss: float, index: int, dtype: torch.dtype) -> None:
    """Do nothing if an example's loss is a number.

    Raises:
        ScoreNotFinite: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        computed_in = str(dtype).removeprefix("torch.")
        raise ScoreNotFinite(
            f"the loss of example {index + 1} is {loss}: weights of the base model or an adapter, or what is "
            f"computed with them in {computed_in}, are not finite"
        )


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
        limits = [token_limit(examples[order[number]]) - len(undecided[order[number]]) for number in group]
        out = generate_call(batch.input_ids, batch.attention_mask, max(limits))
        for number, limit, new in zip(
            group, limits, out[:, batch.input_ids.shape[1] :].tolist(), strict=True
        ):
            index = order[number]
            matches[index] = is_answer(tokenizer, examples[index], (*undecided[index], *new[:limit]), stops)
    return matches


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
