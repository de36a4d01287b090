"""A job's progress as text."""

import pytest

from registry.jobs.progress import describe, duration


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (None, ""),
        ({}, ""),
        ({"phase": "loading", "step": 0, "total": 1}, "loading 0/1"),
        ({"phase": "training", "step": 40, "total": 80, "loss": 1.2341}, "training 40/80, loss 1.234"),
        (
            {"phase": "training", "step": 40, "total": 80, "loss": 1.2, "eta_s": 125.4},
            "training 40/80, loss 1.200, 2 min left",
        ),
        ({"phase": "training", "step": 80, "total": 80, "eta_s": 0.0}, "training 80/80, 0 s left"),
    ],
)
def test_step_loss_and_remaining_time_are_shown_where_known(
    progress: dict[str, object] | None, said: str
) -> None:
    assert describe(progress) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3599.4, "59 min"),
        (3600, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (86_400, "1 d 0 h"),
        (190_800, "2 d 5 h"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said
