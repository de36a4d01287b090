"""One subject asked all questions of a dataset, as far as the metrics need, and what its answers come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers.errors import NothingMeasured, SpecInvalid
from workers.jobs.answering import Answerer
from workers.jobs.evaluation.questions import Questions
from xlora_engine.data.chat import ChatTokenizer, EncodedExample
from xlora_engine.metrics.answered import AnsweredExample, Choice
from xlora_engine.metrics.metric import Measured, Metric, measured
from xlora_engine.metrics.table import ANSWER, CHOICES, lacking, suiting


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How subjects are asked, and what is measured."""

    #: Names; the defaults that suit the data if there are none.
    metrics: tuple[str, ...] = ()
    tokens_per_batch: int
    #: None: what the expected answers suggest.
    max_new_tokens: int | None = None
    #: How far a quantity may be off, as a share of what is expected.
    tolerance: float = 0.01


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one subject gave on one dataset, and what that comes to."""

    examples: tuple[AnsweredExample, ...]
    values: Mapping[str, Measured]
    #: Metrics that suit the data, but have no value for these answers, and why, in sentences.
    undefined: tuple[str, ...]
    #: Decided by the data: of generated answers.
    max_new_tokens: int | None


def chosen_metrics(questions: Questions, asked: Sequence[str], *, task: str) -> list[Metric]:
    """The metrics that are asked for, or else those that suit the data.

    Raises:
        SpecInvalid: the data lack what one of them needs.
    """
    missing = lacking(asked, questions.has)
    if missing:
        name, needs = next(iter(missing.items()))
        said = {ANSWER: "a question and its answer", CHOICES: "choices, the answer among them"}
        needed = " and ".join(said.get(need, "a quantity as its answer") for need in needs)
        raise SpecInvalid(
            "metrics", f"of what the examples of {task} have: {name} needs that each has {needed}", name
        )
    return suiting(asked, questions.has)


def measure(
    answerer: Answerer, questions: Questions, metrics: Sequence[Metric], asking: Asking
) -> Measurement:
    """Ask one subject and compute the metrics.

    Raises:
        ScoreNotFinite: an answer's loss is NaN or infinite.
        NothingMeasured: no metric has a value.
    """
    tokens = asking.tokens_per_batch
    names = {metric.name for metric in metrics}
    losses, exact = _expected(answerer, questions, tokens, matches="exact_match" in names)
    choices = (
        _weighed(answerer, questions, tokens) if any(CHOICES in each.needs for each in metrics) else None
    )
    new_tokens, answers = None, None
    if any(metric.generates for metric in metrics):
        new_tokens = questions.new_tokens(asking.max_new_tokens)
        answers = answerer.texts(questions.encoded, max_new_tokens=new_tokens, tokens_per_batch=tokens)
    examples = tuple(
        AnsweredExample(
            line=question.example.line,
            question=question.text,
            expected=question.expected,
            nats=losses[index] * len(question.encoded.answer_ids),
            tokens=len(question.encoded.answer_ids),
            bytes=_text_bytes(answerer.tokenizer, question.encoded),
            is_exact=None if exact is None else bool(exact[index]),
            answer=None if answers is None else answers[index],
            choices=() if choices is None else choices[index],
            tolerance=asking.tolerance,
        )
        for index, question in enumerate(questions.asked)
    )
    values = {metric.name: value for metric in metrics if (value := measured(metric, examples)) is not None}
    undefined = tuple(
        f"{metric.name} is not defined: no answer is one that it counts, or all that is expected is equal"
        for metric in metrics
        if metric.name not in values
    )
    if not values:
        raise NothingMeasured(f"{answerer.subject}: {'; '.join(undefined)}")
    return Measurement(examples=examples, values=values, undefined=undefined, max_new_tokens=new_tokens)


def as_row(example: AnsweredExample, metrics: Sequence[Metric]) -> dict[str, Any]:
    """One example for the record and for people: what was asked, expected and given, and its scores."""
    scores = {}
    for metric in metrics:
        summands = metric.summands(example)
        if summands is not None and len(summands) == 2:
            scores[metric.name] = float(metric.value(np.array(summands)))
    given: dict[str, Any] = {} if example.answer is None else {"answer": example.answer}
    if example.choices:
        given["choices"] = {choice.text: choice.log_likelihood for choice in example.choices}
    return {
        "line": example.line,
        "question": example.question,
        "expected": example.expected,
        **given,
        **scores,
        "tokens": example.tokens,
        "bytes": example.bytes,
    }


def _expected(
    answerer: Answerer, questions: Questions, tokens: int, *, matches: bool
) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Mean losses of the expected answers, and whether greedy decoding gives them, if that is asked."""
    if not matches:
        return answerer.losses(questions.encoded, tokens_per_batch=tokens), None
    score = answerer.score(questions.encoded, tokens_per_batch=tokens)
    return score.example_losses, score.example_matches


def _weighed(answerer: Answerer, questions: Questions, tokens: int) -> list[tuple[Choice, ...]]:
    """Every question's choices with their log-likelihoods."""
    flat = [choice for question in questions.asked for choice in question.choices]
    losses = iter(answerer.losses(flat, tokens_per_batch=tokens))
    return [
        tuple(
            Choice(text=text, log_likelihood=-next(losses) * len(encoded.answer_ids))
            for text, encoded in zip(question.example.choices, question.choices, strict=True)
        )
        for question in questions.asked
    ]


def _text_bytes(tokenizer: ChatTokenizer, example: EncodedExample) -> int:
    text: str = tokenizer.decode(list(example.answer_ids), skip_special_tokens=True)
    return max(1, len(text.encode()))
