"""The time that a phase still takes is known from its second report on, by this attempt's steps alone."""

import pytest

from workers.attempts.pace import Mark, Pace, seconds_left


def mark(step: int, at_s: float, phase: str = "training") -> Mark:
    return Mark(phase=phase, step=step, at_s=at_s)


@pytest.mark.parametrize(
    ("first", "last", "left_s"),
    [
        (mark(0, 100), mark(10, 120), 60.0),
        (mark(30, 100), mark(35, 105), 5.0),
        (mark(0, 100), mark(40, 180), 0.0),
        (mark(0, 100), mark(41, 182), 0.0),
        (mark(5, 100), mark(5, 120), None),
        (mark(5, 100), mark(4, 120), None),
        (mark(0, 100, "loading"), mark(10, 120), None),
    ],
)
def test_the_rest_takes_as_long_as_steps_took_so_far(first: Mark, last: Mark, left_s: float | None) -> None:
    assert seconds_left(first, last, total=40) == left_s


def test_a_phase_is_timed_from_its_own_first_report() -> None:
    pace = Pace()
    assert pace.timed({"phase": "loading", "step": 0, "total": 1}, at_s=0) == {
        "phase": "loading", "step": 0, "total": 1,
    }  # fmt: skip
    # It resumed from a checkpoint at step 50.
    assert "eta_s" not in pace.timed({"phase": "training", "step": 51, "total": 61}, at_s=60)
    timed = pace.timed({"phase": "training", "step": 56, "total": 61, "loss": 1.5}, at_s=70)
    assert timed == {"phase": "training", "step": 56, "total": 61, "loss": 1.5, "eta_s": 10.0}


def test_a_report_without_steps_is_passed_on() -> None:
    assert Pace().timed({"phase": "registering"}, at_s=1.0) == {"phase": "registering"}
