"""What an attempt cost is counted by phase, by a clock that a test winds."""

from workers.attempts.cost import PhaseClock, peak_memory


def test_seconds_are_counted_from_one_report_to_the_next() -> None:
    times = iter([10.0, 11.0, 14.0, 20.0])
    clock = PhaseClock(now=lambda: next(times))
    clock.enter("loading")
    clock.enter("training")
    clock.enter("loading")
    assert clock.metrics() == {"seconds/loading": 7.0, "seconds/training": 3.0, "seconds/total": 10.0}


def test_what_reported_nothing_has_no_seconds() -> None:
    assert PhaseClock().metrics() == {}


def test_this_process_has_held_some_megabytes_and_not_terabytes() -> None:
    assert 10 < peak_memory()["memory/peak_mb"] < 1e6
