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
    ours: Sequence[float], theirs: Sequence[float], *, seed: int, draws: int = 2000
) -> Interval:
    """Mean of `ours - theirs` over examples, with its percentile bootstrap interval (Efron 1979).

    Raises:
        ConfigInvalid: the two differ in length or are empty; or there are no draws.
    """
    if draws < 1:
        raise ConfigInvalid("draws", "at least 1", draws)
    if len(ours) != len(theirs) or not ours:
        raise ConfigInvalid("examples", "as many in both, at least one", (len(ours), len(theirs)))
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    generator = np.random.default_rng(seed)
    count = len(differences)
    at_once = min(draws, max(1, _DRAWS_AT_ONCE // count))
    sizes = [at_once] * (draws // at_once) + [draws % at_once]
    means = [differences[generator.integers(count, size=(size, count))].mean(1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(mean=float(differences.mean()), low=float(low), high=float(high))
