"""Scores of answers: loss by teacher forcing, exact match as greedy decoding would give it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from xlora_engine.data.chat import ChatTokenizer, EncodedRow, collate, length_grouped, pad_token
from xlora_engine.data.shared_prefix import repeated, shared_prefix
from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import ConfigInvalid

#: How many tokens more than the expected answer a model may take to write it differently.
EXTRA_TOKENS = 8


class LogitsCall(Protocol):
    """Runs a model; a base model, an adapter and a mixture are asked alike."""

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
    """Scores over some rows, row by row in their order."""

    #: Mean loss (nats) over each row's answer tokens.
    row_losses: tuple[float, ...]
    #: 1 where greedy decoding gives the answer, after normalisation.
    row_matches: tuple[float, ...]
    #: Answer tokens in each row.
    row_tokens: tuple[int, ...]

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.row_losses)

    @property
    def loss(self) -> float:
        """Mean loss (nats) over all answer tokens."""
        total = sum(loss * tokens for loss, tokens in zip(self.row_losses, self.row_tokens, strict=True))
        return total / sum(self.row_tokens)

    @property
    def loss_standard_error(self) -> float:
        """Standard error of that mean: of a ratio estimator, for rows differ in their number of tokens."""
        mean, per_row = self.loss, sum(self.row_tokens) / self.n
        return _standard_error(
            [
                (loss - mean) * tokens / per_row
                for loss, tokens in zip(self.row_losses, self.row_tokens, strict=True)
            ]
        )

    @property
    def exact_match(self) -> float:
        """Share of rows answered exactly."""
        return fmean(self.row_matches)

    @property
    def exact_match_standard_error(self) -> float:
        """Standard error of that share."""
        return _standard_error(self.row_matches)


def score_answers(
    logits_call: LogitsCall,
    generate_call: GenerateCall,
    tokenizer: ChatTokenizer,
    rows: Sequence[EncodedRow],
    *,
    new_cache: Callable[[], Cache],
    tokens_per_batch: int,
    device: torch.device,
) -> AnswerScores:
    """Loss and exact match of every row's answer.

    What all rows begin with is run once, into the empty cache that `new_cache` makes.

    Greedy decoding agrees with teacher forcing up to the first token where the likeliest is not the
    answer's, so one forward decides nearly every match; only a row whose answer may still come out
    right in other tokens is really generated, from that token on.

    Raises:
        ConfigInvalid: there are no rows.
    """
    if not rows:
        raise ConfigInvalid("rows", "at least one", 0)
    pad_id = pad_token(tokenizer)
    losses: dict[int, float] = {}
    matches: dict[int, bool] = {}
    undecided: dict[int, tuple[int, ...]] = {}
    with torch.no_grad():
        cache = new_cache()
        # Where windows slide, the padding of a shorter row would push the prefix out of them.
        prefix = () if any(cache.is_sliding) else shared_prefix(rows)
        if prefix:
            _run_prefix(logits_call, prefix, cache, device=device)
        own = [row.after(len(prefix)) for row in rows]
        for indices in length_grouped(own, tokens_per_batch=tokens_per_batch):
            batch = collate([own[index] for index in indices], pad_id=pad_id).to(device)
            logits = logits_call(
                batch.input_ids,
                F.pad(batch.attention_mask, (len(prefix), 0), value=1),
                batch.position_ids + len(prefix),
                batch.keep,
                repeated(cache, len(indices)) if prefix else None,
            )
            for index, row_logits in zip(indices, logits, strict=True):
                losses[index], predicted = _forced(row_logits, rows[index])
                decided = decide(tokenizer, rows[index], predicted)
                if decided is None:
                    undecided[index] = _begun(rows[index], predicted)
                else:
                    matches[index] = decided
        matches |= _generated_matches(
            generate_call, tokenizer, rows, undecided, tokens_per_batch=tokens_per_batch, device=device
        )
    return AnswerScores(
        row_losses=tuple(losses[index] for index in range(len(rows))),
        row_matches=tuple(float(matches[index]) for index in range(len(rows))),
        row_tokens=tuple(len(row.answer_ids) for row in rows),
    )


def _run_prefix(
    logits_call: LogitsCall, token_ids: Sequence[int], cache: Cache, *, device: torch.device
) -> None:
    input_ids = upload([list(token_ids)], device)
    positions = torch.arange(len(token_ids), device=device)[None]
    logits_call(input_ids, torch.ones_like(input_ids), positions, 1, cache)


def decide(tokenizer: ChatTokenizer, row: EncodedRow, predicted: Sequence[int]) -> bool | None:
    """Whether greedy decoding gives the answer, from the likeliest token at each of its positions.

    None where teacher forcing cannot tell: the first other token may begin another way to write the
    same answer.
    """
    begun = _begun(row, predicted)
    if begun == row.answer_ids:
        return True
    if begun[-1] in _stops(tokenizer, row):
        return _is_answer(tokenizer, row, begun)
    expected = normalise(_text(tokenizer, row.answer_ids))
    text = " ".join(_text(tokenizer, begun).casefold().split())
    # A lone byte of a longer character decodes to the replacement sign: it can still become anything.
    possible = "\ufffd" in text or f"{expected}.".startswith(text) or f"{expected} .".startswith(text)
    return None if possible else False


def normalise(text: str) -> str:
    """Text as exact match compares it: one case, single spaces, no final full stop."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def _forced(logits: Float[Tensor, "kept vocabulary"], row: EncodedRow) -> tuple[float, list[int]]:
    """Mean loss of the answer's tokens, and the likeliest token at each of their positions."""
    ahead = logits[-len(row.answer_ids) - 1 : -1].float()
    targets = upload(row.answer_ids, logits.device)
    return float(F.cross_entropy(ahead, targets)), ahead.argmax(-1).tolist()


def _begun(row: EncodedRow, predicted: Sequence[int]) -> tuple[int, ...]:
    """What greedy decoding begins with: the answer up to and with the first token where it differs."""
    answer = row.answer_ids
    differing = next((i for i, (a, p) in enumerate(zip(answer, predicted, strict=True)) if a != p), None)
    return answer if differing is None else (*answer[:differing], predicted[differing])


def _generated_matches(
    generate_call: GenerateCall,
    tokenizer: ChatTokenizer,
    rows: Sequence[EncodedRow],
    undecided: Mapping[int, tuple[int, ...]],
    *,
    tokens_per_batch: int,
    device: torch.device,
) -> dict[int, bool]:
    """Matches by row index of what really is generated after each undecided row's beginning."""
    places = list(undecided)
    prompts = [
        EncodedRow(
            token_ids=rows[index].token_ids[: rows[index].prompt_length] + undecided[index],
            prompt_length=rows[index].prompt_length,
        )
        for index in places
    ]
    matches = {}
    for group in length_grouped(prompts, tokens_per_batch=tokens_per_batch):
        batch = collate([prompts[place] for place in group], pad_id=pad_token(tokenizer)).to(device)
        limits = [_token_limit(rows[places[p]]) - len(undecided[places[p]]) for p in group]
        out = generate_call(batch.input_ids, batch.attention_mask, max(limits))
        for place, limit, new in zip(group, limits, out[:, batch.input_ids.shape[1] :].tolist(), strict=True):
            index = places[place]
            matches[index] = _is_answer(tokenizer, rows[index], (*undecided[index], *new[:limit]))
    return matches


def _token_limit(row: EncodedRow) -> int:
    return len(row.answer_ids) + EXTRA_TOKENS


def _is_answer(tokenizer: ChatTokenizer, row: EncodedRow, generated: Sequence[int]) -> bool:
    """Whether generated tokens end, and say what the answer says before they do."""
    stops = _stops(tokenizer, row)
    end = next((i for i, token in enumerate(generated) if token in stops), None)
    if end is None:
        return False
    return normalise(_text(tokenizer, generated[:end])) == normalise(_text(tokenizer, row.answer_ids))


def _stops(tokenizer: ChatTokenizer, row: EncodedRow) -> Collection[int]:
    """Tokens that end an answer; padding is what follows one that ended by another of the model's."""
    return {tokenizer.eos_token_id, pad_token(tokenizer), row.answer_ids[-1]}


def _text(tokenizer: ChatTokenizer, token_ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
