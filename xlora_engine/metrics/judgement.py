"""Better, worse, or no telling: what an interval of a difference says, against what counts as no worse."""

from xlora_engine.measuring.bootstrap import Interval
from xlora_engine.metrics.metric import Metric

#: How much worse something is and still counts as no worse: a share of the other's loss, and a difference of
#: shares such as exact match.
MARGIN = 0.02
#: Nats a token that a loss may be above the other's, where that is nearly zero and a share says nothing.
LEAST_LOSS_MARGIN = 0.001

BETTER, NO_WORSE, WORSE, CANNOT_TELL = "better", "no worse", "worse", "cannot tell"


def margin_of(metric: Metric, other: float, *, margin: float = MARGIN) -> float:
    """The margin in the metric's own unit, where the other subject has this value."""
    return margin if metric.is_share else max(margin * abs(other), LEAST_LOSS_MARGIN)


def verdict_word(excess: Interval, margin: float) -> str:
    """What an interval of how much worse something is says, against the margin that counts as no worse."""
    if excess.high < 0:
        return BETTER
    if excess.high <= margin:
        return NO_WORSE
    return WORSE if excess.low > margin else CANNOT_TELL


def verdict(metric: Metric, difference: Interval, *, margin: float) -> str:
    """The same for our value less theirs, whichever way the metric goes."""
    if metric.lower_is_better:
        return verdict_word(difference, margin)
    lost = Interval(mean=-difference.mean, low=-difference.high, high=-difference.low)
    return verdict_word(lost, margin)
