"""Waiting for jobs: until the last has ended, or until the time that they share is over."""

import time
from types import SimpleNamespace

import pytest

from registry.jobs import waiting
from registry.jobs.waiting import wait_for
from registry.service import Registry


def test_jobs_that_have_ended_are_given_in_the_order_asked_for(registry: Registry) -> None:
    first, second = (registry.jobs.submit("train", {"name": name}).id for name in ("a", "b"))
    for job in (first, second):
        registry.jobs.request_cancel(job)
    ended = wait_for(registry.jobs, [second, first])
    assert [(job.id, job.state) for job in ended] == [(second, "cancelled"), (first, "cancelled")]


def test_the_time_is_that_of_all_jobs_together(registry: Registry) -> None:
    jobs = [registry.jobs.submit("train", {"name": str(number)}).id for number in range(5)]
    started = time.monotonic()
    ended = wait_for(registry.jobs, jobs, timeout_s=0.2)
    assert {job.state for job in ended} == {"queued"}
    assert 0.2 <= time.monotonic() - started < 0.2 * len(jobs)


def test_a_job_that_ends_meanwhile_is_given_ended(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = registry.jobs.submit("train", {"name": "a"}).id
    meanwhile = SimpleNamespace(sleep=lambda _: registry.jobs.request_cancel(job))
    monkeypatch.setattr(waiting, "time", meanwhile)
    (ended,) = wait_for(registry.jobs, [job])
    assert ended.state == "cancelled"
