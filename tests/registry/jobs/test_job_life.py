"""The life of a job against a model of it: two workers, any order of events, a clock that the test moves.

The clock moves by moving every time of the job into the past, so that it works on every database.
"""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from registry.database.database import Database
from registry.jobs.models import JobRow
from registry.jobs.states import REASONS, STATES, TERMINAL_STATES, TRANSITIONS
from registry.jobs.store import JobStore

LEASE_S = 1000.0
DEADLINE_S = 700.0
#: Of which no sum comes within 100 s of a lease's end or the deadline.
STEPS_S = (400.0, 1200.0)
MAX_ATTEMPTS = 2
#: Stated once more, so that the code's own table is checked.
ALLOWED = {"infra": ("lost_attempts", 10), "cuda_oom": ("memory_cuts", 4), "host_oom": ("memory_cuts", 4)}
WORKERS = ("one", "two")
_TIMES = ("lease_until", "ready_at", "deadline_at")


class JobLife(RuleBasedStateMachine):
    """After every event, the database must agree with this model."""

    database: Database

    @initialize(with_deadline=st.booleans())
    def submit(self, with_deadline: bool) -> None:
        self.jobs = JobStore(self.database)
        self.id = self.jobs.submit(
            "train", {}, max_attempts=MAX_ATTEMPTS, deadline_s=DEADLINE_S if with_deadline else None
        ).id
        self.state: str = "queued"
        self.reason: str | None = None
        self.fence = 0
        self.used = {"attempt": 0, "lost_attempts": 0, "memory_cuts": 0}
        self.cancel_requested = False
        self.now = 0.0
        self.lease_ends = self.ready = 0.0
        self.deadline = DEADLINE_S if with_deadline else float("inf")
        #: What each worker believes to hold: it never learns by itself that it was overtaken.
        self.believed: dict[str, int] = {}
        self.effects = 0

    @property
    def is_lapsed(self) -> bool:
        return self.state == "running" and self.lease_ends < self.now

    def holds(self, worker: str) -> bool:
        return self.state == "running" and self.believed.get(worker) == self.fence

    def end(self, state: str, reason: str) -> None:
        self.state, self.reason = state, reason

    @rule(seconds=st.sampled_from(STEPS_S))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        with self.database.write() as session:
            row = session.scalars(select(JobRow).where(JobRow.id == self.id)).one()
            for column in _TIMES:
                if (at := getattr(row, column)) is not None:
                    setattr(row, column, at - timedelta(seconds=seconds))

    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> None:
        claimed = self.jobs.claim(self.id, owner=worker, worker=worker, lease_s=LEASE_S)
        may_start = self.ready <= self.now and self.used["attempt"] < MAX_ATTEMPTS
        free = (self.state == "queued" and may_start) or (self.is_lapsed and self.used["lost_attempts"] < 10)
        assert (claimed is not None) == (free and not self.cancel_requested and self.now < self.deadline)
        if claimed is None:
            return
        self.used["attempt" if self.state == "queued" else "lost_attempts"] += 1
        self.state, self.fence = "running", self.fence + 1
        self.lease_ends = self.now + LEASE_S
        self.believed[worker] = claimed.fence
        assert claimed.owner == worker

    @rule(worker=st.sampled_from(WORKERS))
    def beat(self, worker: str) -> None:
        answer = self.jobs.beat(self.id, fence=self.believed.get(worker, -1), lease_s=LEASE_S)
        assert answer.alive == self.holds(worker)
        if answer.alive:
            assert answer.cancel_requested == self.cancel_requested
            assert answer.overdue == (self.now >= self.deadline)
            self.lease_ends = self.now + LEASE_S

    @rule(worker=st.sampled_from(WORKERS))
    def succeed(self, worker: str) -> None:
        done = self.jobs.finish(self.id, fence=self.believed.get(worker, -1), state="succeeded", reason="ok")
        assert done == self.holds(worker)
        if done:
            self.effects += 1
            self.end("succeeded", "ok")

    @rule(worker=st.sampled_from(WORKERS), reason=st.sampled_from([*ALLOWED, "poison", "error", "drain"]))
    def attempt_ends(self, worker: str, reason: str) -> None:
        held = self.holds(worker)
        state = self.jobs.requeue(
            self.id, fence=self.believed.get(worker, -1), reason=reason, refund=reason == "drain"
        )
        assert (state is not None) == held
        if not held:
            return
        if self.cancel_requested:
            self.end("cancelled", "cancelled")
        elif self.goes_on(reason):
            self.state, self.ready = "queued", self.now + (0.0 if reason == "drain" else 60.0)
        else:
            self.end("failed", reason)
        assert state == self.state

    def goes_on(self, reason: str) -> bool:
        if reason == "poison":
            return self.used["attempt"] < MAX_ATTEMPTS
        if reason in ALLOWED:
            counter, allowed = ALLOWED[reason]
            if self.used[counter] == allowed:
                return False
            self.used[counter] += 1
        if reason != "error":
            self.used["attempt"] -= 1
        return reason != "error"

    @rule()
    def cancel(self) -> None:
        job = self.jobs.request_cancel(self.id)
        if self.state == "queued" or self.is_lapsed:
            self.end("cancelled", "cancelled")
            self.cancel_requested = True
        elif self.state == "running":
            self.cancel_requested = True
        assert job.state == self.state

    @rule(worker=st.sampled_from(WORKERS))
    def owner_is_seen_dead(self, worker: str) -> None:
        fence = self.believed.get(worker, -1)
        assert self.jobs.expire(self.id, fence=fence) == self.holds(worker)
        if self.holds(worker):
            self.lease_ends = self.now - 1

    @rule()
    def sweep(self) -> None:
        ended = self.id in self.jobs.sweep()
        overdue = self.now >= self.deadline
        lost = self.is_lapsed and (self.used["lost_attempts"] >= 10 or self.cancel_requested or overdue)
        assert ended == (lost or (self.state == "queued" and overdue))
        if ended and self.cancel_requested:
            self.end("cancelled", "cancelled")
        elif ended:
            self.end("failed", "deadline" if overdue else "poison")

    @rule()
    def retry(self) -> None:
        if self.state not in ("failed", "cancelled"):
            return
        self.jobs.retry(self.id)
        self.state, self.reason = "queued", None
        self.used = dict.fromkeys(self.used, 0)
        self.cancel_requested, self.deadline, self.ready = False, float("inf"), 0.0

    @invariant()
    def the_row_is_as_remembered(self) -> None:
        job = self.jobs.get(self.id)
        assert (job.state, job.reason, job.fence) == (self.state, self.reason, self.fence)
        assert {name: getattr(job, name) for name in self.used} == self.used
        assert job.cancel_requested == self.cancel_requested
        assert (job.lease_until is not None) == (job.state == "running")
        assert self.effects <= 1

    def teardown(self) -> None:
        """The journal alone gives the state, by the table of transitions."""
        events = self.jobs.events(self.id)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert all(earlier.fence <= later.fence for earlier, later in pairwise(events))
        state = "queued"
        for event in events[1:]:
            assert state in TRANSITIONS[event.kind].sources, events
            state = TRANSITIONS[event.kind].target
        assert state == self.state
        assert [event.kind for event in events].count("succeeded") == self.effects


def test_any_order_of_events_keeps_the_job_in_one_state_with_one_effect(database: Database) -> None:
    class OnThisDatabase(JobLife):
        pass

    OnThisDatabase.database = database
    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(
            max_examples=50,
            stateful_step_count=20,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("event", TRANSITIONS)
def test_no_event_leads_out_of_success_or_to_an_unknown_state(event: str) -> None:
    transition = TRANSITIONS[event]
    assert {*transition.sources, transition.target} <= set(STATES)
    assert "succeeded" not in transition.sources
    assert set(TERMINAL_STATES) <= set(STATES)
    assert len(set(REASONS)) == len(REASONS)
