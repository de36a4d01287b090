"""The shapes of a report's charts, as coordinates that a template draws: no text, no colour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Width and height of a chart of layers, in its own units.
LAYERS_WIDTH, LAYERS_HEIGHT = 300, 60
#: An interval is drawn on a line from -1 to 1; this is how far beyond the margin it reaches at least.
_MARGINS_SHOWN = 3.0


@dataclass(frozen=True, kw_only=True)
class IntervalShape:
    """A difference, its interval and margin, in percent of a line from left to right; 50 is no difference."""

    low: float
    mean: float
    high: float
    margin: float
    #: The value at the right end.
    end: float


def interval_shape(low: float, mean: float, high: float, margin: float) -> IntervalShape:
    """Where they lie on a line that is just long enough for them and some margins."""
    end = max(abs(low), abs(high), _MARGINS_SHOWN * margin) * 1.1 or 1.0
    place = [round(50 + 50 * value / end, 2) for value in (low, mean, high, margin)]
    return IntervalShape(low=place[0], mean=place[1], high=place[2], margin=place[3], end=end)


def stacked_areas(by_layer: Sequence[Sequence[float]]) -> list[str]:
    """A polygon for each expert, as points: the shares of all layers from left to right, stacked.

    A single set of scalings for all layers is drawn over the whole width.
    """
    layers = list(by_layer) * (2 if len(by_layer) == 1 else 1)
    if not layers:
        return []
    step = LAYERS_WIDTH / (len(layers) - 1)
    tops = [_stacked(shares) for shares in layers]
    polygons = []
    for expert in range(len(layers[0])):
        upper = [_point(n * step, top[expert + 1]) for n, top in enumerate(tops)]
        lower = [_point(n * step, top[expert]) for n, top in enumerate(tops)]
        polygons.append(" ".join([*upper, *reversed(lower)]))
    return polygons


def percent_shares(shares: Sequence[float]) -> list[float]:
    """Each expert's share of their sum, in percent; a gate that is zero has none."""
    total = sum(max(share, 0.0) for share in shares)
    return [round(100 * max(share, 0.0) / total, 1) if total else 0.0 for share in shares]


def differences_on(report: Mapping[str, Any], task: str) -> dict[str, Mapping[str, Any]]:
    """The composition's differences on a task, by the subject it is compared with."""
    return {str(row["against"]): row for row in report.get("differences", []) if row["task"] == task}


def _stacked(shares: Sequence[float]) -> list[float]:
    heights = [0.0]
    for share in percent_shares(shares):
        heights.append(heights[-1] + share / 100)
    return heights


def _point(x: float, share: float) -> str:
    return f"{x:.1f},{LAYERS_HEIGHT * (1 - share):.1f}"
