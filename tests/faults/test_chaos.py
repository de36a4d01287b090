"""Under random faults every job ends exactly once, with the right result."""

import pytest

from tests.faults.chaos import chaos

SECONDS = 60.0
JOBS = 40
SEED = 7


@pytest.mark.chaos
@pytest.mark.parametrize("on_postgres", [False, True], ids=["sqlite", "postgresql"])
def test_no_fault_loses_or_doubles_a_job(on_postgres: bool) -> None:
    outcome = chaos(seed=SEED, jobs=JOBS, seconds=SECONDS, drain_s=240, on_postgres=on_postgres)
    assert sum(outcome.faults.values()) >= 10, str(outcome)
    assert (outcome.unfinished, outcome.wrong, outcome.doubled) == ([], [], []), str(outcome)
    assert outcome.orphans == [], str(outcome)
    assert outcome.steps_ratio <= 1.2, str(outcome)
