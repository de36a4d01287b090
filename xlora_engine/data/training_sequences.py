"""Examples as the sequences that are trained on: which answers are learnt, what becomes of long ones."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from formats.chat_examples import ChatExample
from formats.chat_messages import ASSISTANT
from xlora_engine.data.chat import ChatTokenizer, EncodedExample, encode
from xlora_engine.data.learnt_answers import LearntAnswers, LongExamples
from xlora_engine.errors import AnswerTooLong, ChatInvalid


@dataclass(frozen=True, kw_only=True)
class TrainingSequences:
    """What a model is trained on, and what was done to get it."""

    sequences: tuple[EncodedExample, ...]
    #: How many examples were given.
    examples: int
    #: How many sequences were cut off at the limit.
    cut: int = 0
    #: How many sequences were left out, since nothing to learn was within the limit, or as was asked.
    left_out: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(one.token_ids) for one in self.sequences)

    @property
    def answer_tokens(self) -> int:
        """Tokens that are learnt."""
        return sum(map(learnt_tokens, self.sequences))

    @property
    def facts(self) -> dict[str, int]:
        """Their numbers by name, as a run and an outcome hold them."""
        return {
            "examples": self.examples,
            "sequences": len(self.sequences),
            "tokens": self.tokens,
            "answer_tokens": self.answer_tokens,
            "longest": max((len(one.token_ids) for one in self.sequences), default=0),
            "cut": self.cut,
            "left_out": self.left_out,
        }


def training_sequences(
    tokenizer: ChatTokenizer,
    examples: Sequence[ChatExample],
    *,
    max_tokens: int,
    embeddings: int = sys.maxsize,
    answers: LearntAnswers = "every",
    long_examples: LongExamples = "refuse",
) -> TrainingSequences:
    """Encode examples, each after exactly the tokens that generation would meet before its answer.

    Where a template writes an earlier turn otherwise than when it was answered (one that drops old
    reasoning), a conversation becomes several sequences.

    Raises:
        ChatInvalid: an example cannot be encoded, or none is left.
        AnswerTooLong: an example has more than `max_tokens`, and long ones are refused.
    """
    limit = max_tokens if long_examples == "refuse" else sys.maxsize
    kept: list[EncodedExample] = []
    cut = left_out = 0
    for example in examples:
        for sequence in encode_answers(tokenizer, example, embeddings=embeddings, answers=answers):
            if len(sequence.token_ids) <= max_tokens:
                kept.append(sequence)
                continue
            if limit == max_tokens:
                raise AnswerTooLong(
                    f"{example.origin} has {len(sequence.token_ids)} tokens ({sequence.prompt_length} before"
                    f" the answer), the limit is {max_tokens}; shorten it, raise the limit (at most the base"
                    " model's context), or let long examples be cut or left out"
                )
            shortened = cut_to(sequence, max_tokens)
            if long_examples == "cut" and shortened is not None:
                kept.append(shortened)
                cut += 1
            else:
                left_out += 1
    if examples and not kept:
        raise ChatInvalid(f"none of the {len(examples)} examples has an answer within {max_tokens} tokens")
    return TrainingSequences(sequences=tuple(kept), examples=len(examples), cut=cut, left_out=left_out)


def encode_answers(
    tokenizer: ChatTokenizer, example: ChatExample, *, embeddings: int, answers: LearntAnswers
) -> list[EncodedExample]:
    """The sequences of one example: one, or more where the template rewrites earlier turns.

    Raises:
        ChatInvalid: it cannot be encoded.
    """
    found: list[EncodedExample] = []
    for count in _answer_ends(example, answers):
        so_far = replace(example, messages=example.messages[:count])
        now = encode(tokenizer, so_far, max_tokens=sys.maxsize, embeddings=embeddings)
        joined = _joined(found[-1], now) if found else None
        if joined is None:
            found.append(now)
        else:
            found[-1] = joined
    return found


def cut_to(sequence: EncodedExample, max_tokens: int) -> EncodedExample | None:
    """The beginning of a sequence; None where nothing to learn is in it."""
    if max_tokens <= sequence.prompt_length:
        return None
    between = tuple((start, min(end, max_tokens)) for start, end in sequence.between if start < max_tokens)
    return replace(sequence, token_ids=sequence.token_ids[:max_tokens], between=between)


def learnt_tokens(sequence: EncodedExample) -> int:
    """How many of its tokens are learnt."""
    return len(sequence.answer_ids) - sum(end - start for start, end in sequence.between)


def weighted(
    parts: Iterable[tuple[Sequence[EncodedExample], float]],
) -> tuple[EncodedExample, ...]:
    """Sequences of several datasets, each as often as its weight says: 2 is twice, 0.5 every other."""
    return tuple(
        one
        for sequences, weight in parts
        for index, one in enumerate(sequences)
        # Spread evenly, so that a part of a dataset holds of all that it is sorted by.
        for _ in range(int((index + 1) * weight) - int(index * weight))
    )


def _answer_ends(example: ChatExample, answers: LearntAnswers) -> list[int]:
    """How many messages there are up to each answer that is learnt."""
    if answers == "last" or example.text is not None:
        return [len(example.messages)]
    return [count for count, (role, _) in enumerate(example.messages, 1) if role == ASSISTANT and count > 1]


def _joined(earlier: EncodedExample, later: EncodedExample) -> EncodedExample | None:
    """One sequence that learns both, the earlier being the beginning of the later one; else None."""
    length = len(earlier.token_ids)
    if later.prompt_length < length or later.token_ids[:length] != earlier.token_ids:
        return None
    return replace(
        later,
        prompt_length=earlier.prompt_length,
        between=(*earlier.between, (length, later.prompt_length)),
    )
