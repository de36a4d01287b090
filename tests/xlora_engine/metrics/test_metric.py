"""Values, errors and differences from sums, against formulas written out, scikit-learn and scipy."""

import math
from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import r2_score

from registry.lists.queries import LOWER_IS_BETTER
from xlora_engine.errors import ConfigInvalid
from xlora_engine.measuring.bootstrap import Interval
from xlora_engine.metrics.answered import AnsweredExample, Choice
from xlora_engine.metrics.judgement import BETTER, CANNOT_TELL, NO_WORSE, WORSE, margin_of, verdict
from xlora_engine.metrics.metric import Measured, compared, measured
from xlora_engine.metrics.names import ALL, METRIC_NAMES
from xlora_engine.metrics.table import ANSWER, CHOICES, METRICS, QUANTITY, lacking, suiting


def answered(line: int = 1, **fields: object) -> AnsweredExample:
    given: dict[str, object] = {"question": "?", "expected": "a", "nats": 1.0, "tokens": 2, "bytes": 3}
    return AnsweredExample(line=line, **{**given, **fields})  # type: ignore[arg-type]


def numbers(expected: list[float], given: list[str]) -> list[AnsweredExample]:
    return [
        answered(line, expected=str(right), answer=answer, tolerance=0.01)
        for line, (right, answer) in enumerate(zip(expected, given, strict=True))
    ]


def value(name: str, examples: list[AnsweredExample]) -> Measured:
    found = measured(METRICS[name], examples)
    assert found is not None
    return found


LOSSES = [answered(1, nats=2.0, tokens=4, bytes=8), answered(2, nats=3.0, tokens=2, bytes=4)]


def test_losses_are_weighted_by_their_tokens_and_bytes() -> None:
    assert value("loss", LOSSES).value == pytest.approx(5 / 6)
    assert value("perplexity", LOSSES).value == pytest.approx(math.exp(5 / 6))
    assert value("bits_per_byte", LOSSES).value == pytest.approx(5 / 12 / math.log(2))


def test_the_error_of_a_mean_is_its_usual_one() -> None:
    examples = [answered(line, is_exact=line % 3 == 0) for line in range(10)]
    found = value("exact_match", examples)
    assert found.value == pytest.approx(0.4)
    right = [float(line % 3 == 0) for line in range(10)]
    assert found.standard_error == pytest.approx(stdev(right) / math.sqrt(10))
    assert found.n == 10


def test_the_error_of_a_ratio_and_of_r2_is_that_of_the_bootstrap() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 9, 200)
    nats = tokens * generator.normal(2, 0.5, 200)
    losses = [
        answered(line, nats=float(n), tokens=int(t))
        for line, (n, t) in enumerate(zip(nats, tokens, strict=True))
    ]
    by_draws = bootstrap(
        (nats, tokens),
        lambda n, t, axis: n.sum(axis=axis) / t.sum(axis=axis),
        paired=True,
        rng=np.random.default_rng(1),
        n_resamples=4000,
        method="percentile",
    )
    assert value("loss", losses).standard_error == pytest.approx(by_draws.standard_error, rel=0.1)


def test_r2_is_that_of_scikit_learn() -> None:
    expected = [1.5, 2.0, -3.25, 8.0, 0.5]
    given = [1.0, 2.5, -3.0, 7.0, 1.5]
    found = value("r2", numbers(expected, list(map(str, given))))
    assert found.value == pytest.approx(r2_score(expected, given))


def test_an_answer_without_a_number_is_wrong_and_explains_nothing() -> None:
    examples = numbers([1.0, 2.0, 3.0], ["1", "2", "no idea"])
    assert value("numeric_match", examples).value == pytest.approx(2 / 3)
    assert value("r2", examples).n == 2


def test_what_is_not_defined_is_none_and_not_zero() -> None:
    assert measured(METRICS["r2"], numbers([0.1] * 7, ["0.1"] * 6 + ["0.2"])) is None
    assert measured(METRICS["r2"], numbers([1.0, 2.0], ["none", "none"])) is None
    assert measured(METRICS["exact_match"], [answered()]) is None


def test_the_likeliest_choice_is_chosen_with_and_without_its_length() -> None:
    choices = (Choice(text="no", log_likelihood=-2.0), Choice(text="yes, it is", log_likelihood=-3.0))
    example = answered(expected="yes, it is", choices=choices)
    assert value("accuracy", [example]).value == 0
    assert value("accuracy_norm", [example]).value == 1
    even = answered(
        expected="b", choices=(Choice(text="a", log_likelihood=-1.0), Choice(text="b", log_likelihood=-1.0))
    )
    assert value("accuracy", [even]).value == 0


def test_the_paired_difference_is_narrower_than_the_values_apart() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(5, 2, 100)
    ours = [answered(line, nats=float(nats), tokens=1) for line, nats in enumerate(hard)]
    theirs = [replace(example, nats=example.nats + 0.1) for example in ours]
    found = compared(METRICS["loss"], ours, theirs, seed=0)
    assert found is not None
    interval, n = found
    assert n == 100
    assert interval.mean == pytest.approx(-0.1)
    assert interval.high - interval.low < 1e-6
    assert interval == compared(METRICS["loss"], ours, theirs, seed=0)[0]  # type: ignore[index]


def test_only_the_same_examples_are_compared() -> None:
    with pytest.raises(ConfigInvalid):
        compared(METRICS["loss"], [answered(1)], [answered(2)], seed=0)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-0.2, -0.1, BETTER), (-0.1, 0.01, NO_WORSE), (0.03, 0.1, WORSE), (-0.1, 0.1, CANNOT_TELL)],
)
def test_a_verdict_knows_which_way_a_metric_goes(low: float, high: float, word: str) -> None:
    excess = Interval(mean=(low + high) / 2, low=low, high=high)
    lost = Interval(mean=-excess.mean, low=-high, high=-low)
    assert verdict(METRICS["loss"], excess, margin=0.02) == word
    assert verdict(METRICS["exact_match"], lost, margin=0.02) == word


def test_a_margin_is_a_share_of_a_loss_and_points_of_a_share() -> None:
    assert margin_of(METRICS["loss"], 3.0) == pytest.approx(0.06)
    assert margin_of(METRICS["exact_match"], 0.1) == pytest.approx(0.02)


def test_defaults_suit_the_data() -> None:
    def names(*has: str, asked: tuple[str, ...] = ()) -> list[str]:
        return [metric.name for metric in suiting(asked, has)]

    assert names() == ["loss", "perplexity", "bits_per_byte"]
    assert names(ANSWER) == [*names(), "exact_match"]
    assert names(ANSWER, CHOICES)[-2:] == ["accuracy", "accuracy_norm"]
    assert names(ANSWER, QUANTITY)[-2:] == ["numeric_match", "r2"]
    assert names(ANSWER, asked=(ALL,))[-2:] == ["f1", "rouge_l"]
    assert names(ANSWER, asked=("f1",)) == ["f1"]
    assert lacking(["f1", "accuracy"], {ANSWER}) == {"accuracy": [CHOICES]}


def test_names_and_directions_are_said_once_where_numpy_is_not_needed() -> None:
    assert tuple(METRICS) == METRIC_NAMES
    lower = {name for name, metric in METRICS.items() if metric.lower_is_better}
    assert lower == set(LOWER_IS_BETTER) & set(METRICS)
