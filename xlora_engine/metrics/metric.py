"""A metric: a function of sums over examples, so that its error and its differences need no further formula.

Every example gives a few summands; the value is computed from their sums. A mean is (x, 1) and the ratio of
the sums, a perplexity the exponential of (loss, tokens), R² a function of (error², y², y, 1). Leaving an
example out, or drawing some often, changes the sums alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from xlora_engine.errors import ConfigInvalid
from xlora_engine.measuring.bootstrap import Interval
from xlora_engine.metrics.answered import AnsweredExample

#: What an example adds to a metric's sums; None where it is no example of it.
Summands = tuple[float, ...] | None

#: Draws of examples held in memory at once.
_DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One way to judge a subject by its answers."""

    name: str
    #: For people, after "it is".
    what: str
    lower_is_better: bool
    #: What a dataset's examples must have, of `answer`, `choices` and `quantity`.
    needs: frozenset[str] = frozenset()
    #: Whether answers are generated for it.
    generates: bool = False
    #: Whether it is measured without being asked for, on data that have what it needs.
    is_default: bool = True
    #: Whether it lies between 0 and 1, so that a difference of it is compared as it is.
    is_share: bool = True
    summands: Callable[[AnsweredExample], Summands]
    #: Whether it counts tokens, of which another tokenizer makes others.
    is_per_token: bool = False
    #: From the sums, or many of them.
    value: Callable[[Float[np.ndarray, "*draws summand"]], Float[np.ndarray, "*draws"]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A metric's value over examples."""

    value: float
    #: By the jackknife (Quenouille 1956, Tukey 1958); of a mean, its usual one. None where it is not finite.
    standard_error: float | None
    #: Examples that it is of.
    n: int


def measured(metric: Metric, examples: Sequence[AnsweredExample]) -> Measured | None:
    """The metric's value; None if no example is one of it, or the value is not defined on those that are."""
    rows = [found for example in examples if (found := metric.summands(example)) is not None]
    if not rows:
        return None
    summands = np.asarray(rows, dtype=np.float64)
    with np.errstate(all="ignore"):
        value = float(metric.value(summands.sum(0)))
        without = metric.value(summands.sum(0) - summands)
        n = len(rows)
        error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())) if n > 1 else 0.0
    if not math.isfinite(value):
        return None
    return Measured(value=value, standard_error=error if math.isfinite(error) else None, n=n)


def compared(
    metric: Metric,
    ours: Sequence[AnsweredExample],
    theirs: Sequence[AnsweredExample],
    *,
    seed: int,
    draws: int = 2000,
) -> tuple[Interval, int] | None:
    """Our value less theirs with its 95 % interval, and of how many examples, by the paired bootstrap.

    Both are drawn together, example by example (Efron 1979). None if no example is one of the metric for
    both.

    Raises:
        ConfigInvalid: the two are not of the same examples.
    """
    if [example.line for example in ours] != [example.line for example in theirs]:
        raise ConfigInvalid("examples", "the same for both subjects", (len(ours), len(theirs)))
    pairs = [
        (a, b)
        for our, their in zip(ours, theirs, strict=True)
        if (a := metric.summands(our)) is not None and (b := metric.summands(their)) is not None
    ]
    if not pairs:
        return None
    both = np.asarray(pairs, dtype=np.float64)
    generator = np.random.default_rng(seed)
    count = len(both)
    at_once = min(draws, max(1, _DRAWS_AT_ONCE // (count * both.shape[-1])))
    differences = []
    with np.errstate(all="ignore"):
        mean = _difference(metric, both.sum(0))
        for start in range(0, draws, at_once):
            drawn = generator.integers(count, size=(min(at_once, draws - start), count))
            differences.append(_difference(metric, both[drawn].sum(1)))
    found = np.concatenate(differences)
    finite = found[np.isfinite(found)]
    if not np.isfinite(mean) or not len(finite):
        return None
    low, high = np.quantile(finite, [0.025, 0.975])
    return Interval(mean=float(mean), low=float(low), high=float(high)), count


def _difference(metric: Metric, sums: Float[np.ndarray, "*draws 2 summand"]) -> Float[np.ndarray, "*draws"]:
    difference: Float[np.ndarray, "*draws"] = metric.value(sums[..., 0, :]) - metric.value(sums[..., 1, :])
    return difference
