"""Paired bootstrap: is a difference between two subjects on the same rows more than chance?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xlora_engine.errors import ConfigInvalid

#: Row draws held in memory at once.
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
    """Mean of `ours - theirs` over rows, with its percentile bootstrap interval (Efron 1979).

    Raises:
        ConfigInvalid: the two are not over the same, at least one, rows; or there are no draws.
    """
    if draws < 1:
        raise ConfigInvalid("draws", "at least 1", draws)
    if len(ours) != len(theirs) or not ours:
        raise ConfigInvalid("rows", "as many in both, at least one", (len(ours), len(theirs)))
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    generator = np.random.default_rng(seed)
    rows = len(differences)
    at_once = min(draws, max(1, _DRAWS_AT_ONCE // rows))
    sizes = [at_once] * (draws // at_once) + [draws % at_once]
    means = [differences[generator.integers(rows, size=(size, rows))].mean(1) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(mean=float(differences.mean()), low=float(low), high=float(high))
