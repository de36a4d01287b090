"""The time that a phase of a job still takes, from the pace of its steps so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A progress report and the time of its arrival, in seconds of the monotonic clock."""

    phase: str
    step: int
    at_s: float


def seconds_left(first: Mark, last: Mark, *, total: int) -> float | None:
    """The seconds left at the pace between two reports of a phase; None where they show no pace.

    `first` is this attempt's first report, which is not of step 0 if it resumed from a checkpoint.
    """
    done = last.step - first.step
    if first.phase != last.phase or done <= 0:
        return None
    return max(0, total - last.step) * (last.at_s - first.at_s) / done


class Pace:
    """Adds `eta_s`, the seconds that a phase still takes, to each report of it but the first."""

    def __init__(self) -> None:
        self._first: Mark | None = None

    def timed(self, report: Mapping[str, Any], *, at_s: float) -> Mapping[str, Any]:
        """The report with `eta_s`, if the pace is known."""
        last = Mark(phase=str(report.get("phase", "")), step=int(report.get("step", 0)), at_s=at_s)
        if self._first is None or self._first.phase != last.phase:
            self._first = last
        left_s = seconds_left(self._first, last, total=int(report.get("total", 0)))
        return report if left_s is None else {**report, "eta_s": round(left_s, 1)}
