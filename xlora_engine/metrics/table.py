"""Every metric, in one table, and which of them suit some data."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from xlora_engine.metrics.answered import AnsweredExample
from xlora_engine.metrics.metric import Metric, Summands
from xlora_engine.metrics.names import ALL
from xlora_engine.metrics.quantities import is_close, number_in, quantity_of
from xlora_engine.metrics.texts import rouge_l, word_f1

#: What an example may have that a metric needs: an answer to a question, others to choose from, a quantity.
ANSWER, CHOICES, QUANTITY = "answer", "choices", "quantity"

_ROUNDING = 1e-12

_Sums = Float[np.ndarray, "*draws summand"]
_Values = Float[np.ndarray, "*draws"]
_Summed = Callable[[AnsweredExample], Summands]


def _ratio(sums: _Sums) -> _Values:
    ratio: _Values = sums[..., 0] / sums[..., 1]
    return ratio


def _r2(sums: _Sums) -> _Values:
    error, square, total, count = (sums[..., column] for column in range(4))
    variance = square - total**2 / count
    # Equal numbers vary by nothing but rounding, and there is nothing to explain.
    return 1 - error / np.where(variance > _ROUNDING * square, variance, np.nan)


def _text_share(score: Callable[[str, str], float]) -> _Summed:
    def summands(example: AnsweredExample) -> Summands:
        return None if example.answer is None else (score(example.answer, example.expected), 1.0)

    return summands


def _is_exact(example: AnsweredExample) -> Summands:
    return None if example.is_exact is None else (float(example.is_exact), 1.0)


def _chosen(weigh: Callable[[str], int]) -> _Summed:
    """Whether the choice that weighs most is the expected one; of equals, the first is chosen."""

    def summands(example: AnsweredExample) -> Summands:
        if not example.choices:
            return None
        best = max(example.choices, key=lambda choice: choice.log_likelihood / weigh(choice.text))
        return float(best.text == example.expected), 1.0

    return summands


def _is_close(example: AnsweredExample) -> Summands:
    expected = quantity_of(example.expected)
    if expected is None or example.answer is None:
        return None
    return float(is_close(example.answer, expected, tolerance=example.tolerance)), 1.0


def _squares(example: AnsweredExample) -> Summands:
    expected = quantity_of(example.expected)
    given = None if expected is None or example.answer is None else number_in(example.answer, expected)
    if expected is None or given is None:
        return None
    return (given - expected.value) ** 2, expected.value**2, expected.value, 1.0


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="loss",
            what="the loss of the expected answers, in nats a token, the end of each turn included",
            lower_is_better=True,
            is_share=False,
            is_per_token=True,
            summands=lambda example: (example.nats, float(example.tokens)),
            value=_ratio,
        ),
        Metric(
            name="perplexity",
            what="the exponential of the loss",
            lower_is_better=True,
            is_share=False,
            is_per_token=True,
            summands=lambda example: (example.nats, float(example.tokens)),
            value=lambda sums: np.exp(_ratio(sums)),
        ),
        Metric(
            name="bits_per_byte",
            what="the loss in bits for each byte of text, which compares base models of other tokenizers",
            lower_is_better=True,
            is_share=False,
            summands=lambda example: (example.nats / math.log(2), float(example.bytes)),
            value=_ratio,
        ),
        Metric(
            name="exact_match",
            what="the share of answers that are the expected ones, case, spaces and a final full stop aside",
            lower_is_better=False,
            needs=frozenset({ANSWER}),
            summands=_is_exact,
            value=_ratio,
        ),
        Metric(
            name="accuracy",
            what="the share of questions whose right choice is the likeliest",
            lower_is_better=False,
            needs=frozenset({CHOICES}),
            summands=_chosen(lambda _: 1),
            value=_ratio,
        ),
        Metric(
            name="accuracy_norm",
            what="the same, with every log-likelihood divided by the characters of its choice",
            lower_is_better=False,
            needs=frozenset({CHOICES}),
            summands=_chosen(len),
            value=_ratio,
        ),
        Metric(
            name="numeric_match",
            what="the share of quantities that are right within the tolerance, in the expected unit",
            lower_is_better=False,
            needs=frozenset({QUANTITY}),
            generates=True,
            summands=_is_close,
            value=_ratio,
        ),
        Metric(
            name="r2",
            what="the share of the variance of the expected numbers that the given ones explain",
            lower_is_better=False,
            needs=frozenset({QUANTITY}),
            generates=True,
            is_share=False,
            summands=_squares,
            value=_r2,
        ),
        Metric(
            name="f1",
            what="the F1 of the words of answer and expected answer, as SQuAD's",
            lower_is_better=False,
            needs=frozenset({ANSWER}),
            generates=True,
            is_default=False,
            summands=_text_share(word_f1),
            value=_ratio,
        ),
        Metric(
            name="rouge_l",
            what="the F1 of their longest common subsequence of words",
            lower_is_better=False,
            needs=frozenset({ANSWER}),
            generates=True,
            is_default=False,
            summands=_text_share(rouge_l),
            value=_ratio,
        ),
    )
}


def suiting(asked: Collection[str], has: Collection[str]) -> list[Metric]:
    """The metrics to measure on data that have this: those asked for, all, or without either the defaults."""
    possible = [metric for metric in METRICS.values() if metric.needs <= set(has)]
    if ALL in asked:
        return possible
    return [metric for metric in possible if (metric.name in asked if asked else metric.is_default)]


def lacking(asked: Sequence[str], has: Collection[str]) -> dict[str, list[str]]:
    """Metrics that were asked for by name and cannot be measured on data that have this: what they miss."""
    return {
        name: sorted(METRICS[name].needs - set(has))
        for name in asked
        if name != ALL and not METRICS[name].needs <= set(has)
    }
