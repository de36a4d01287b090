"""How long a phase of a job still takes, from how fast its steps have come so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A progress report and when it came, in seconds of the monotonic clock."""

    phase: str
    step: int
    at_s: float


def seconds_left(first: Mark, last: Mark, *, total: int) -> float | None:
    """At the pace between two reports of a phase; None where they tell of none.

    `first` is where this attempt began, which is not step 0 where it goes on from a checkpoint.
    """
    done = last.step - first.step
    if first.phase != last.phase or done <= 0:
        return None
    return max(0, total - last.step) * (last.at_s - first.at_s) / done


class Pace:
    """Adds `eta_s`, the seconds that a phase still takes, to each report of it but the first."""

    def __init__(self) -> None:
        self._first: Mark | None = None

    def timed(self, said: Mapping[str, Any], *, at_s: float) -> Mapping[str, Any]:
        """The report with what is known of its end."""
        last = Mark(phase=str(said.get("phase", "")), step=int(said.get("step", 0)), at_s=at_s)
        if self._first is None or self._first.phase != last.phase:
            self._first = last
        left_s = seconds_left(self._first, last, total=int(said.get("total", 0)))
        return said if left_s is None else {**said, "eta_s": round(left_s, 1)}
