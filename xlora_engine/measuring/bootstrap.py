"""Paired bootstrap: is a difference between two models on the same examples more than chance?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xlora_engine.errors import ConfigInvalid

#: Draws of examples held in memory at once.
_DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def paired_difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    seed: int,
    draws: int = 2000,
    weights: Sequence[float] | None = None,
) -> Interval:
    """Mean of `ours - theirs` over examples, with its percentile bootstrap interval (Efron 1979).

    With `weights`, such as tokens, it is the weighted mean; examples are drawn with their weights, so that
    the interval is one of that ratio.

    Raises:
        ConfigInvalid: the two or the weights differ in length, or are empty; or there are no draws.
    """
    if draws < 1:
        raise ConfigInvalid("draws", "at least 1", draws)
    if weights is not None and (len(weights) != len(ours) or min(weights, default=0) <= 0):
        raise ConfigInvalid("weights", "above 0, one for each example", list(weights))
    if len(ours) != len(theirs) or not ours:
        raise ConfigInvalid("examples", "as many in both, at least one", (len(ours), len(theirs)))
    weighed = np.ones(len(ours)) if weights is None else np.asarray(weights, dtype=np.float64)
    differences = (np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)) * weighed
    generator = np.random.default_rng(seed)
    count = len(differences)
    at_once = min(draws, max(1, _DRAWS_AT_ONCE // count))
    sizes = [at_once] * (draws // at_once) + [draws % at_once]
    means = []
    for size in sizes:
        drawn = generator.integers(count, size=(size, count))
        means.append(differences[drawn].sum(1) / weighed[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(mean=float(differences.sum() / weighed.sum()), low=float(low), high=float(high))
