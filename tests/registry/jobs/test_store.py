"""A job takes effect once: who may claim it, and that an owner with an old fence can write nothing."""

import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import text

from registry.database.database import Database
from registry.entities import Job
from registry.errors import Conflict, InvalidField, InvalidName, JobNotFound, KeyReused
from registry.jobs.budgets import LOST_ATTEMPTS_ALLOWED, MEMORY_CUTS_ALLOWED
from registry.jobs.store import JobStore
from registry.settings import Settings

#: A lease that has run out before the claim returns: an owner that never beats.
LAPSED_S = -1.0
#: Longer than any pause of a busy machine.
LEASE_S = 3600.0

#: Claims whatever there is under its own name, and prints one number a line.
_CLAIMANT = """
import sys
from pathlib import Path
from registry.database.database import Database
from registry.jobs.store import JobStore
from registry.settings import Settings
settings = Settings.from_env({"ZOO_HOME": sys.argv[1], "ZOO_DATABASE_URL": sys.argv[2]})
with Database(settings) as database:
    jobs = JobStore(database)
    print("ready", flush=True)
    sys.stdin.readline()
    while (job := jobs.claim_next(owner="process", lease_s=3600)) is not None:
        print(job.id)
"""


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


def _running(jobs: JobStore, *, lease_s: float = LEASE_S, max_attempts: int = 3) -> Job:
    job = jobs.submit("train", {"name": "bio"}, max_attempts=max_attempts)
    claimed = jobs.claim(job.id, owner="first", lease_s=lease_s)
    assert claimed is not None
    return claimed


def _skip_pauses(database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE job SET ready_at = NULL"))


def _kinds(jobs: JobStore, job_id: int) -> list[str]:
    return [event.kind for event in jobs.events(job_id)]


def test_a_submitted_job_waits_with_all_that_was_asked_for(jobs: JobStore) -> None:
    job = jobs.submit("train", {"name": "bio", "epochs": 3}, queue="gpu", priority=5, max_attempts=2)

    assert jobs.get(job.id) == job
    assert (job.state, job.reason, job.attempt, job.fence, job.owner) == ("queued", None, 0, 0, None)
    assert (job.queue, job.priority, job.max_attempts) == ("gpu", 5, 2)
    assert job.spec == {"name": "bio", "epochs": 3}
    assert job.created_at.utcoffset() is not None
    assert _kinds(jobs, job.id) == ["submitted"]


def test_the_same_key_with_the_same_request_is_the_same_job(jobs: JobStore) -> None:
    first = jobs.submit("train", {"a": 1, "b": 2}, idempotency_key="k")
    again = jobs.submit("train", {"b": 2, "a": 1}, idempotency_key="k")
    assert again.id == first.id
    assert len(jobs.list()) == 1


def test_the_same_key_with_another_request_is_refused(jobs: JobStore) -> None:
    jobs.submit("train", {"a": 1}, idempotency_key="k")
    with pytest.raises(KeyReused, match="zoo jobs show 1"):
        jobs.submit("train", {"a": 2}, idempotency_key="k")
    with pytest.raises(KeyReused):
        jobs.submit("eval", {"a": 1}, idempotency_key="k")


def test_fifty_submissions_with_one_key_at_once_make_one_job(jobs: JobStore) -> None:
    together = Barrier(50)

    def submit(_: int) -> int:
        together.wait(timeout=60)
        return jobs.submit("train", {}, idempotency_key="k").id

    with ThreadPoolExecutor(50) as pool:
        assert len(set(pool.map(submit, range(50)))) == 1
    assert len(jobs.list()) == 1


def test_a_claim_counts_the_attempt_and_raises_the_fence(jobs: JobStore) -> None:
    job = _running(jobs)
    assert (job.state, job.attempt, job.fence, job.owner) == ("running", 1, 1, "first")
    assert job.lease_until is not None
    assert job.started_at is not None
    assert abs((job.lease_until - job.started_at).total_seconds() - LEASE_S) < 60
    assert jobs.events(job.id)[-1].payload == {"owner": "first"}


def test_a_job_that_is_held_cannot_be_claimed(jobs: JobStore) -> None:
    job = _running(jobs)
    assert jobs.claim(job.id, owner="second", lease_s=LEASE_S) is None
    assert jobs.claim_next(owner="second", lease_s=LEASE_S) is None
    assert jobs.get(job.id) == job


def test_of_many_claimants_at_once_exactly_one_wins(settings: Settings, jobs: JobStore) -> None:
    barrier = Barrier(4)

    def claim(owner: str) -> list[int]:
        with Database(settings) as own_database:
            own = JobStore(own_database)
            won = []
            for job_id in ids:
                barrier.wait(timeout=30)
                if own.claim(job_id, owner=owner, lease_s=LEASE_S) is not None:
                    won.append(job_id)
            return won

    ids = [jobs.submit("train", {}).id for _ in range(10)]
    with ThreadPoolExecutor(4) as pool:
        won = [job_id for share in pool.map(claim, "abcd") for job_id in share]

    assert sorted(won) == ids
    assert all(jobs.get(job_id).fence == 1 for job_id in ids)


@pytest.mark.processes
def test_processes_that_take_the_next_job_never_take_the_same(settings: Settings, jobs: JobStore) -> None:
    ids = [jobs.submit("train", {}).id for _ in range(30)]
    arguments = [sys.executable, "-c", _CLAIMANT, str(settings.home), settings.database_url]
    claimants = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for claimant in claimants:
        assert claimant.stdout is not None
        assert claimant.stdout.readline() == "ready\n"
    for claimant in claimants:
        assert claimant.stdin is not None
        claimant.stdin.write("go\n")
        claimant.stdin.flush()
    claimed = [int(line) for claimant in claimants for line in claimant.communicate(timeout=600)[0].split()]

    assert all(claimant.returncode == 0 for claimant in claimants)
    assert Counter(claimed) == Counter(ids)


def test_the_next_job_is_the_most_urgent_and_then_the_oldest_of_the_queue(jobs: JobStore) -> None:
    jobs.submit("train", {}, queue="gpu", priority=9)
    ordinary = [jobs.submit("train", {}).id for _ in range(2)]
    urgent = jobs.submit("train", {}, priority=1).id

    taken = [jobs.claim_next(owner="w", lease_s=LEASE_S) for _ in range(4)]

    assert [job.id if job else None for job in taken] == [urgent, *ordinary, None]


def test_a_job_of_more_processes_than_a_worker_has_gpus_is_left_for_another(jobs: JobStore) -> None:
    three = jobs.submit("train", {}, processes=3, priority=9).id
    two = jobs.submit("train", {}, processes=2).id
    unsaid = jobs.submit("train", {"name": "bio"}).id

    taken = [jobs.claim_next(owner="w", lease_s=LEASE_S, most_processes=2) for _ in range(3)]
    other = jobs.claim_next(owner="w", lease_s=LEASE_S)

    assert [job.id if job else None for job in taken] == [two, unsaid, None]
    assert other is not None
    assert other.id == three


def test_a_lapsed_lease_is_taken_over_with_a_new_fence(jobs: JobStore) -> None:
    lost = _running(jobs, lease_s=LAPSED_S)
    taken = jobs.claim_next(owner="second", lease_s=LEASE_S, worker="w")
    assert taken is not None
    assert (taken.id, taken.fence, taken.owner, taken.worker) == (lost.id, 2, "second", "w")
    assert (taken.attempt, taken.lost_attempts) == (1, 1)
    assert taken.started_at == lost.started_at


def test_a_beat_renews_the_lease_and_says_how_far_the_work_is(jobs: JobStore) -> None:
    job = _running(jobs, lease_s=LAPSED_S)
    answer = jobs.beat(job.id, fence=job.fence, lease_s=LEASE_S, progress={"step": 3, "loss": float("nan")})
    assert (answer.alive, answer.cancel_requested) == (True, False)
    assert jobs.get(job.id).progress == {"step": 3, "loss": None}
    assert jobs.claim(job.id, owner="second", lease_s=LEASE_S) is None


def test_an_overtaken_owner_changes_nothing(jobs: JobStore) -> None:
    stale = _running(jobs, lease_s=LAPSED_S)
    taken = jobs.claim(stale.id, owner="second", lease_s=LEASE_S)
    assert taken is not None

    fence = stale.fence
    assert not jobs.beat(stale.id, fence=fence, lease_s=LEASE_S, progress={"step": 1}).alive
    assert not jobs.finish(stale.id, fence=fence, state="succeeded", reason="ok", outcome={"adapter": "x"})
    assert jobs.requeue(stale.id, fence=fence, reason="error") is None
    assert not jobs.expire(stale.id, fence=fence)
    assert not jobs.set_run(stale.id, "run", fence)
    assert not jobs.set_log(stale.id, "log", fence)
    assert not jobs.add_event(stale.id, "saved", fence=fence)

    assert jobs.get(stale.id) == taken
    assert _kinds(jobs, stale.id) == ["submitted", "claimed", "claimed"]


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_finished_job_keeps_its_reason_and_no_lease(jobs: JobStore, state: str) -> None:
    job = _running(jobs)
    assert jobs.finish(
        job.id, fence=job.fence, state=state, reason="ok", message="nul \0 byte", outcome={"adapter": "bio@1"}
    )
    ended = jobs.get(job.id)
    assert (ended.state, ended.reason, ended.lease_until) == (state, "ok", None)
    assert ended.message == "nul \ufffd byte"
    assert ended.outcome == {"adapter": "bio@1"}
    assert ended.finished_at is not None
    assert not jobs.finish(job.id, fence=job.fence, state="failed", reason="error")
    assert jobs.claim(job.id, owner="second", lease_s=LEASE_S) is None
    assert _kinds(jobs, job.id) == ["submitted", "claimed", state]


def test_a_job_cannot_be_finished_into_a_state_that_is_no_end(jobs: JobStore) -> None:
    job = _running(jobs)
    with pytest.raises(InvalidField, match="succeeded, failed, cancelled"):
        jobs.finish(job.id, fence=job.fence, state="queued", reason="ok")


def test_a_job_that_takes_its_worker_down_is_started_so_often_and_no_more(
    jobs: JobStore, database: Database
) -> None:
    job = _running(jobs, lease_s=LAPSED_S, max_attempts=1)
    for _ in range(LOST_ATTEMPTS_ALLOWED):
        assert jobs.sweep() == ()
        assert jobs.claim(job.id, owner="next", lease_s=LAPSED_S) is not None

    assert jobs.claim(job.id, owner="one more", lease_s=LEASE_S) is None
    assert jobs.claimable() == {}
    assert jobs.sweep() == (job.id,)
    ended = jobs.get(job.id)
    assert (ended.state, ended.reason, ended.attempt, ended.fence) == ("failed", "poison", 1, 11)
    assert ended.message == "its worker died 11 times; see the log"
    assert jobs.events(job.id)[-1].payload == {"reason": "poison"}
    assert jobs.sweep() == ()


def test_a_job_that_kills_its_process_is_started_so_often_and_no_more(
    jobs: JobStore, database: Database
) -> None:
    job = jobs.submit("train", {}, max_attempts=3)
    states = []
    while (claimed := jobs.claim(job.id, owner="w", lease_s=LEASE_S)) is not None:
        states.append(jobs.requeue(job.id, fence=claimed.fence, reason="poison", message="SIGKILL"))
        _skip_pauses(database)
    assert states == ["queued", "queued", "failed"]
    ended = jobs.get(job.id)
    assert (ended.reason, ended.attempt, ended.message) == ("poison", 3, "SIGKILL")


@pytest.mark.parametrize(
    ("reason", "starts"),
    [
        ("infra", LOST_ATTEMPTS_ALLOWED + 1),
        ("cuda_oom", MEMORY_CUTS_ALLOWED + 1),
        ("host_oom", MEMORY_CUTS_ALLOWED + 1),
        *((reason, 1) for reason in ("error", "bad_input", "disk_full", "deadline")),
    ],
)
def test_each_cause_has_its_own_budget(jobs: JobStore, database: Database, reason: str, starts: int) -> None:
    job = jobs.submit("train", {}, max_attempts=1)
    started = 0
    while (claimed := jobs.claim(job.id, owner="w", lease_s=LEASE_S)) is not None:
        started += 1
        assert claimed.attempt == 1
        jobs.requeue(job.id, fence=claimed.fence, reason=reason)
        _skip_pauses(database)
    ended = jobs.get(job.id)
    assert (started, ended.state, ended.reason) == (starts, "failed", reason)


def test_out_of_memory_is_counted_so_that_the_next_attempt_takes_less(jobs: JobStore) -> None:
    job = _running(jobs)
    jobs.requeue(job.id, fence=1, reason="cuda_oom")
    again = jobs.claim(job.id, owner="w", lease_s=LEASE_S)
    assert again is not None
    assert (again.memory_cuts, again.attempt) == (1, 1)


def test_an_unknown_reason_is_refused(jobs: JobStore) -> None:
    job = _running(jobs)
    for give_back in (
        lambda: jobs.requeue(job.id, fence=1, reason="bad luck"),
        lambda: jobs.finish(job.id, fence=1, state="failed", reason="bad luck"),
    ):
        with pytest.raises(InvalidField, match="bad_input"):
            give_back()


def test_a_job_that_was_claimed_and_never_beat_does_not_stay_running(jobs: JobStore) -> None:
    job = _running(jobs, lease_s=LAPSED_S)
    assert jobs.get(job.id).lease_until is not None
    assert jobs.claimable() == {"cpu": 1}


def test_a_deadline_reaches_a_running_job_by_its_next_beat(jobs: JobStore) -> None:
    job = jobs.submit("train", {}, deadline_s=0.3)
    claimed = jobs.claim(job.id, owner="w", lease_s=LEASE_S)
    assert claimed is not None
    assert not jobs.beat(job.id, fence=1, lease_s=LEASE_S).overdue
    time.sleep(0.35)
    assert jobs.beat(job.id, fence=1, lease_s=LEASE_S).overdue
    assert jobs.sweep() == ()


def test_a_job_that_waits_past_its_deadline_is_never_started(jobs: JobStore) -> None:
    job = jobs.submit("train", {}, deadline_s=0.001)
    time.sleep(0.01)
    assert jobs.claim(job.id, owner="w", lease_s=LEASE_S) is None
    assert jobs.sweep() == (job.id,)
    ended = jobs.get(job.id)
    assert (ended.state, ended.reason) == ("failed", "deadline")
    again = jobs.retry(job.id)
    assert (again.state, again.deadline_at) == ("queued", None)


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("nan")])
def test_a_deadline_lies_ahead(jobs: JobStore, deadline_s: float) -> None:
    with pytest.raises(InvalidField, match="deadline"):
        jobs.submit("train", {}, deadline_s=deadline_s)
    assert jobs.list() == ()


def test_a_sweep_leaves_living_owners_alone(jobs: JobStore) -> None:
    job = _running(jobs, max_attempts=1)
    assert jobs.sweep() == ()
    assert jobs.get(job.id) == job


def test_an_attempt_that_died_is_queued_again_after_a_pause(jobs: JobStore) -> None:
    job = _running(jobs)
    assert jobs.requeue(job.id, fence=job.fence, reason="poison", message="no") == "queued"
    assert jobs.get(job.id).message == "no"
    assert jobs.claim(job.id, owner="second", lease_s=LEASE_S) is None
    assert jobs.claim_next(owner="second", lease_s=LEASE_S) is None


def test_a_refunded_attempt_does_not_count_but_the_fence_still_grows(jobs: JobStore) -> None:
    job = _running(jobs, max_attempts=1)
    assert jobs.requeue(job.id, fence=job.fence, reason="drain", refund=True) == "queued"
    again = jobs.claim(job.id, owner="second", lease_s=LEASE_S)
    assert again is not None
    assert (again.attempt, again.fence) == (1, 2)
    assert not jobs.beat(job.id, fence=1, lease_s=LEASE_S).alive


def test_a_queued_job_is_cancelled_at_once(jobs: JobStore) -> None:
    job = jobs.submit("train", {})
    assert jobs.request_cancel(job.id).state == "cancelled"
    assert jobs.get(job.id).reason == "cancelled"
    assert jobs.claim(job.id, owner="w", lease_s=LEASE_S) is None


def test_a_running_job_learns_of_the_cancel_by_its_next_beat(jobs: JobStore) -> None:
    job = _running(jobs)
    assert jobs.request_cancel(job.id).state == "running"
    answer = jobs.beat(job.id, fence=job.fence, lease_s=LEASE_S)
    assert (answer.alive, answer.cancel_requested) == (True, True)
    assert jobs.requeue(job.id, fence=job.fence, reason="poison") == "cancelled"


def test_a_job_whose_owner_is_gone_is_cancelled_at_once(jobs: JobStore) -> None:
    job = _running(jobs, lease_s=LAPSED_S)
    assert jobs.request_cancel(job.id).state == "cancelled"
    assert not jobs.finish(job.id, fence=job.fence, state="succeeded", reason="ok")


def test_a_cancelled_owner_that_dies_is_swept_into_cancelled(jobs: JobStore) -> None:
    job = _running(jobs)
    jobs.request_cancel(job.id)
    assert jobs.expire(job.id, fence=job.fence)
    assert jobs.claim(job.id, owner="second", lease_s=LEASE_S) is None
    assert jobs.sweep() == (job.id,)
    assert jobs.get(job.id).state == "cancelled"


def test_cancelling_a_finished_job_changes_nothing(jobs: JobStore) -> None:
    job = _running(jobs)
    jobs.finish(job.id, fence=job.fence, state="succeeded", reason="ok")
    before = jobs.get(job.id)
    assert jobs.request_cancel(job.id) == before
    assert jobs.get(job.id) == before


def test_a_dead_owners_lease_can_be_ended_before_its_time(jobs: JobStore) -> None:
    job = _running(jobs)
    assert jobs.expire(job.id, fence=job.fence)
    assert jobs.claim(job.id, owner="second", lease_s=LEASE_S) is not None


def test_a_failed_job_can_be_tried_again_with_all_its_attempts(jobs: JobStore) -> None:
    job = _running(jobs, max_attempts=1)
    jobs.finish(job.id, fence=job.fence, state="failed", reason="error", message="why")
    again = jobs.retry(job.id)
    assert (again.state, again.attempt, again.fence, again.reason, again.message) == (
        "queued",
        0,
        1,
        None,
        None,
    )
    claimed = jobs.claim(job.id, owner="second", lease_s=LEASE_S)
    assert claimed is not None
    assert claimed.fence == 2
    with pytest.raises(Conflict, match="is running"):
        jobs.retry(job.id)


def test_the_journal_has_every_event_in_order(jobs: JobStore) -> None:
    job = _running(jobs)
    jobs.add_event(job.id, "checkpoint", {"step": 10}, fence=job.fence)
    jobs.finish(job.id, fence=job.fence, state="succeeded", reason="ok")
    jobs.add_event(job.id, "shipped", fence=job.fence)

    events = jobs.events(job.id)

    assert [(event.sequence, event.kind, event.fence) for event in events] == [
        (1, "submitted", 0),
        (2, "claimed", 1),
        (3, "checkpoint", 1),
        (4, "succeeded", 1),
        (5, "shipped", 1),
    ]
    assert events[2].payload == {"step": 10}
    assert [event.sequence for event in jobs.events(job.id, after=3)] == [4, 5]


def test_lines_written_at_once_are_all_kept(jobs: JobStore) -> None:
    job = _running(jobs)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda n: jobs.add_event(job.id, "tick", {"n": n}, fence=1), range(20)))
    assert [event.sequence for event in jobs.events(job.id)] == list(range(1, 23))


def test_the_run_and_the_log_are_noted(jobs: JobStore) -> None:
    job = _running(jobs)
    assert jobs.set_run(job.id, "abc", job.fence)
    assert jobs.set_log(job.id, "job.log", job.fence)
    noted = jobs.get(job.id)
    assert (noted.run_id, noted.log_path) == ("abc", "job.log")


def test_what_could_be_taken_is_counted_by_queue(jobs: JobStore) -> None:
    jobs.submit("train", {})
    jobs.submit("train", {}, queue="gpu")
    _running(jobs)
    assert jobs.claimable() == {"cpu": 1, "gpu": 1}
    _running(jobs, lease_s=LAPSED_S)
    assert jobs.claimable() == {"cpu": 2, "gpu": 1}


def test_jobs_are_listed_newest_first_and_by_state(jobs: JobStore) -> None:
    first = _running(jobs)
    second = jobs.submit("eval", {})
    assert [job.id for job in jobs.list()] == [second.id, first.id]
    assert [job.id for job in jobs.list(["running"])] == [first.id]
    assert [job.id for job in jobs.list(limit=1)] == [second.id]


def test_an_unknown_job_number_is_not_found(jobs: JobStore) -> None:
    for look in (jobs.get, jobs.events, jobs.request_cancel, jobs.retry):
        with pytest.raises(JobNotFound, match="zoo jobs ls"):
            look(99)
    with pytest.raises(JobNotFound):
        jobs.add_event(99, "tick")
    assert jobs.claim(99, owner="w", lease_s=LEASE_S) is None


def test_what_cannot_run_is_refused_when_it_is_submitted(jobs: JobStore) -> None:
    with pytest.raises(InvalidField, match="max_attempts"):
        jobs.submit("train", {}, max_attempts=0)
    with pytest.raises(InvalidName):
        jobs.submit("../train", {})
    assert jobs.list() == ()
