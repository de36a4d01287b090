"""What a dataset asks of a subject: its examples as tokens, and what of a metric's needs they have."""

from dataclasses import dataclass, replace
from pathlib import Path

from formats.chat_examples import ChatExample
from formats.chat_messages import USER, text_of
from workers.methods.training_examples import draw_sample, encode_all
from xlora_engine.data.chat import ChatTokenizer, EncodedExample, encode
from xlora_engine.errors import ChatInvalid
from xlora_engine.metrics.quantities import quantity_of
from xlora_engine.metrics.table import ANSWER, CHOICES, QUANTITY
from xlora_engine.sources.base_model import ReadLimits

#: Draws the same examples for every subject, so that their scores compare.
SEED = 0

#: What a generated answer may be longer than the longest expected one, at least (tokens).
_MORE_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Question:
    """One example of a dataset, as one base model reads it."""

    example: ChatExample
    encoded: EncodedExample
    #: The question with each choice as its answer, without the end of the turn.
    choices: tuple[EncodedExample, ...]

    @property
    def text(self) -> str:
        """What is asked last; nothing of a text."""
        said = [text_of(content) for role, content in self.example.messages if role == USER]
        return said[-1] if said else ""

    @property
    def expected(self) -> str:
        """The answer, or the whole text."""
        return self.example.text or text_of(self.example.messages[-1][1])


@dataclass(frozen=True, kw_only=True)
class Questions:
    """All that is asked of the subjects of one base model on one dataset."""

    asked: tuple[Question, ...]
    limits: ReadLimits

    @property
    def has(self) -> frozenset[str]:
        """What every example has of what metrics need."""
        answers = all(question.example.text is None for question in self.asked)
        found = {
            ANSWER: answers,
            CHOICES: all(question.choices for question in self.asked),
            QUANTITY: answers and all(quantity_of(question.expected) for question in self.asked),
        }
        return frozenset(name for name, is_there in found.items() if is_there)

    @property
    def encoded(self) -> list[EncodedExample]:
        """Questions with their expected answers."""
        return [question.encoded for question in self.asked]

    def new_tokens(self, asked: int | None) -> int:
        """The most tokens of a generated answer: those asked for, else what the expected answers suggest."""
        longest = max(len(example.answer_ids) for example in self.encoded)
        wanted = longest + max(longest, _MORE_TOKENS) if asked is None else asked
        return min(wanted, self.limits.tokens - max(example.prompt_length for example in self.encoded))


def drawn_questions(
    path: Path, tokenizer: ChatTokenizer, *, limit: int | None, limits: ReadLimits
) -> Questions:
    """The examples of a dataset's file, or `limit` of them, as questions.

    Raises:
        ChatInvalid: one cannot be encoded or read within the limits; the first such line is named.
    """
    examples = draw_sample(path, count=limit, seed=SEED)
    encoded = encode_all(examples, tokenizer, limits=limits)
    return Questions(
        asked=tuple(
            Question(example=example, encoded=tokens, choices=_choices(tokenizer, example, limits))
            for example, tokens in zip(examples, encoded, strict=True)
        ),
        limits=limits,
    )


def _choices(
    tokenizer: ChatTokenizer, example: ChatExample, limits: ReadLimits
) -> tuple[EncodedExample, ...]:
    ends = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return tuple(
        _without_end(
            encode(
                tokenizer,
                replace(example, messages=(*example.messages[:-1], (example.messages[-1][0], choice))),
                max_tokens=limits.tokens,
                embeddings=limits.embeddings,
            ),
            ends,
            choice,
        )
        for choice in example.choices
    )


def _without_end(example: EncodedExample, ends: set[int], choice: str) -> EncodedExample:
    kept = len(example.token_ids)
    while kept > example.prompt_length and example.token_ids[kept - 1] in ends:
        kept -= 1
    if kept == example.prompt_length:
        raise ChatInvalid(f"the chat template writes nothing for the choice {choice!r}")
    return replace(example, token_ids=example.token_ids[:kept])
