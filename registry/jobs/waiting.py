"""Waiting for jobs to end."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from registry.jobs.states import TERMINAL_STATES

if TYPE_CHECKING:  # importing it takes longer than a command that lists may take
    from registry.entities import Job
    from registry.jobs.store import JobStore

_POLL_EVERY_S = 0.5


def wait_for(jobs: "JobStore", job_ids: Iterable[int], *, timeout_s: float | None = None) -> "list[Job]":
    """The jobs once they have ended, or as they are when `timeout_s` seconds have passed over all of them.

    Raises:
        JobNotFound: there is no job with that number.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    return [_wait_for(jobs, job_id, deadline=deadline) for job_id in job_ids]


def _wait_for(jobs: "JobStore", job_id: int, *, deadline: float | None) -> "Job":
    while True:
        job = jobs.get(job_id)
        left_s = _POLL_EVERY_S if deadline is None else deadline - time.monotonic()
        if job.state in TERMINAL_STATES or left_s <= 0:
            return job
        time.sleep(min(_POLL_EVERY_S, left_s))
