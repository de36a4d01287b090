"""Tokens per second between steps, by a clock that a test winds."""

from workers.training_data.token_pace import TokenPace


def test_the_pace_is_of_the_steps_since_the_last_one() -> None:
    times = iter([5.0, 7.0, 8.0, 8.0])
    pace = TokenPace(tokens_per_step=100, now=lambda: next(times))
    assert pace.after_step(3) == {}
    assert pace.after_step(5) == {"tokens_per_second": 100.0}
    assert pace.after_step(6) == {"tokens_per_second": 100.0}
    assert pace.after_step(7) == {}  # no time that can be measured
