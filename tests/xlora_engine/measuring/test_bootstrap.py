"""Paired bootstrap: intervals cover the truth as often as they say, and pairing is used."""

import numpy as np
import pytest
from scipy import stats

from xlora_engine.errors import ConfigInvalid
from xlora_engine.measuring.bootstrap import paired_difference


def test_the_mean_is_that_of_ours_less_theirs() -> None:
    found = paired_difference([3.0, 5.0], [1.0, 1.0], seed=0)
    assert found.mean == 3.0
    assert (found.low, found.high) == (2.0, 4.0)


def test_equal_scores_differ_by_nothing() -> None:
    found = paired_difference([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], seed=0)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_one_example_has_an_interval_of_no_width() -> None:
    found = paired_difference([1.0], [0.5], seed=0)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_the_seed_decides() -> None:
    ours, theirs = [row**1.5 for row in range(30)], [0.0] * 30
    assert paired_difference(ours, theirs, seed=1) == paired_difference(ours, theirs, seed=1)
    assert paired_difference(ours, theirs, seed=1) != paired_difference(ours, theirs, seed=2)


def test_a_difference_common_to_all_examples_shows_through_their_spread() -> None:
    generator = np.random.default_rng(0)
    theirs = generator.normal(0, 10, 50)
    ours = theirs - 0.1 + generator.normal(0, 0.01, 50)
    assert paired_difference(list(ours), list(theirs), seed=0).high < 0


def test_intervals_cover_the_truth_nineteen_times_in_twenty() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        ours = generator.exponential(1.0, 60)
        found = paired_difference(list(ours), [0.0] * 60, seed=trial, draws=400)
        covered += found.low <= 1.0 <= found.high
    assert 0.90 < covered / 300 < 0.965


def test_more_examples_than_fit_at_once_are_drawn_in_parts() -> None:
    rows = 1 << 20
    generator = np.random.default_rng(0)
    found = paired_difference(list(generator.normal(0, 1, rows)), [0.0] * rows, seed=0, draws=18)
    assert found.low < found.mean < found.high
    assert found.high - found.low == pytest.approx(3.5 / rows**0.5, rel=0.6)


def test_a_weighted_interval_is_scipys_of_the_ratio() -> None:
    # Given losses of examples that have between 1 and 20 tokens
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 20, 80)
    theirs = generator.exponential(1.0, 80)
    ours = theirs + generator.normal(3.0, 0.1, 80) / tokens
    # When the difference of the means over tokens is bootstrapped here and by scipy
    found = paired_difference(list(ours), list(theirs), seed=0, draws=20_000, weights=list(tokens))
    theirs_too = stats.bootstrap(
        (ours, theirs, tokens),
        lambda a, b, w, axis=-1: ((a - b) * w).sum(axis) / w.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=1,
    ).confidence_interval
    # Then they agree up to the draws
    assert found.mean == pytest.approx(((ours - theirs) * tokens).sum() / tokens.sum())
    width = found.high - found.low
    assert found.low == pytest.approx(theirs_too.low, abs=0.03 * width)
    assert found.high == pytest.approx(theirs_too.high, abs=0.03 * width)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0]])
def test_weights_that_are_not_of_the_examples_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigInvalid, match="weights"):
        paired_difference([1.0, 2.0], [1.0, 1.0], seed=0, weights=weights)


@pytest.mark.parametrize(
    ("ours", "theirs", "draws"), [([], [], 10), ([1.0], [1.0, 2.0], 10), ([1.0], [1.0], 0)]
)
def test_what_cannot_be_compared_is_refused(ours: list[float], theirs: list[float], draws: int) -> None:
    with pytest.raises(ConfigInvalid):
        paired_difference(ours, theirs, seed=0, draws=draws)
