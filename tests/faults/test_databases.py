"""A database is locked, crashes, changes its schema or has another clock while a worker runs jobs."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from migrations import HEAD
from registry.database.database import Database
from registry.database.schema import ensure_current
from registry.errors import ServiceUnreachable
from registry.service import Registry
from registry.settings import Settings
from tests.brokers import ValkeyServer
from tests.services import CRASH_SAFE, new_postgres, settings_for
from tests.workers.started_processes import (
    CELERY,
    POLLING,
    command_line,
    environment,
    running,
    wait_for_state,
    wait_until,
)
from workers.attempts.runner import job_folder

# Short leases measure time.
pytestmark = pytest.mark.alone

#: Shifts the clock of a Python process by a day: code that read it for a lease would end or keep every lease.
_OTHER_CLOCK = """
import datetime, time
_time, _datetime = time.time, datetime.datetime
time.time = lambda: _time() + {off_s}
class Shifted(_datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds={off_s})
    @classmethod
    def utcnow(cls):
        return super().utcnow() + datetime.timedelta(seconds={off_s})
datetime.datetime = Shifted
"""


def test_a_database_that_crashes_under_a_job_costs_it_no_attempt(tmp_path: Path) -> None:
    postgres = new_postgres(CRASH_SAFE)
    settings = settings_for(postgres.url("postgres"), home=tmp_path / "home")
    try:
        with Database(settings) as database:
            ensure_current(database)
        with Registry.open(settings) as registry:
            job = registry.jobs.submit("train", {"name": "bio"}).id
            folder = job_folder(registry, job)
            with running(POLLING, settings, TEST_HANDLER="measure_until_stopped"):
                wait_until((folder / "measuring").exists, what="the job runs")
                postgres.crash()
                # The job ends while its end cannot be recorded.
                (folder / "enough").touch()
                wait_until((folder / "result-1.json").exists, what="the job process has ended")
                with pytest.raises(ServiceUnreachable):
                    registry.jobs.get(job)
                time.sleep(2)  # so that the supervisor's calls fail
                postgres = postgres.restarted()
                ended = wait_for_state(registry, job, "succeeded", "failed")
        assert (ended.state, ended.attempt, ended.fence, ended.lost_attempts) == ("succeeded", 1, 1, 0)
    finally:
        postgres.stop()


def test_a_job_whose_lease_cannot_be_proved_is_ended_and_tried_again(settings: Settings) -> None:
    brief = replace(settings, lease_s=6.0)
    with Registry.open(brief) as registry:
        job = registry.jobs.submit("train", {"name": "bio"}).id
        with running(POLLING, brief, TEST_HANDLER="wait_to_be_stopped"):
            pid = job_folder(registry, job) / "pid"
            wait_until(pid.exists, what="the job runs")
            first = int(pid.read_text())
            with closing(sqlite3.connect(str(brief.sqlite_path), isolation_level=None, timeout=60)) as holder:
                holder.execute("BEGIN IMMEDIATE")
                # The lease can be neither renewed nor taken over.
                wait_until(lambda: not command_line(first), what="the job process has ended")
                assert registry.jobs.get(job).fence == 1
            wait_until(lambda: registry.jobs.get(job).fence == 2, what="another attempt")
            again = registry.jobs.get(job)
            assert (again.state, again.attempt, again.lost_attempts) == ("running", 1, 1)


@pytest.mark.parametrize("off_s", [-86_400, 86_400])
def test_leases_are_timed_by_the_database_alone(settings: Settings, tmp_path: Path, off_s: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(_OTHER_CLOCK.format(off_s=off_s))
    right = str(Path(__file__).parents[2])
    wrong = f"{tmp_path}:{right}"
    # By its own clock, a worker that is behind would write an expired lease, one that is ahead find one.
    first, second = (wrong, right) if off_s < 0 else (right, wrong)
    with Registry.open(settings) as registry:
        job = registry.jobs.submit("train", {"name": "bio"}, deadline_s=3600).id
        folder = job_folder(registry, job)
        with running(POLLING, settings, TEST_HANDLER="measure_until_stopped", PYTHONPATH=first):
            wait_until((folder / "measuring").exists, what="the job runs")
            with running(POLLING, settings, TEST_HANDLER="measure_until_stopped", PYTHONPATH=second):
                wait_until(lambda: len(registry.workers.list()) == 2, what="the second worker looks for jobs")
                for _ in range(2):
                    before = registry.jobs.get(job).lease_until
                    wait_until(lambda old=before: registry.jobs.get(job).lease_until != old, what="a beat")  # type: ignore[misc]
                (folder / "enough").touch()
                ended = wait_for_state(registry, job, "succeeded", "failed")
        assert (ended.state, ended.fence, ended.lost_attempts) == ("succeeded", 1, 0)


def test_a_reader_with_another_clock_sees_which_workers_are_lost(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_OTHER_CLOCK.format(off_s=86_400))
    paths = f"{tmp_path}:{Path(__file__).parents[2]}"
    with Registry.open(settings) as registry:
        registry.workers.announce("w", host="box", process_id=7, queues=["cpu"], gpu=None, state="working")
        registry.jobs.claim(registry.jobs.submit("train", {}).id, owner="w", lease_s=3600)
    workers, jobs = (
        subprocess.run(
            [sys.executable, "-m", "zoo", noun, "ls"],
            env=environment(settings, PYTHONPATH=paths),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for noun in ("workers", "jobs")
    )
    assert ("idle" in workers, "lost" in workers) == (True, False)
    assert ("running" in jobs, "lost" in jobs) == (True, False)


@pytest.mark.parametrize(
    ("kind", "revision", "way_out"),
    [
        (POLLING, "9999", "pip install --upgrade"),
        (CELERY, "9999", "pip install --upgrade"),
        (POLLING, "0002", "zoo migrate"),
    ],
    ids=["polling, newer", "celery, newer", "polling, older"],
)
def test_a_worker_leaves_the_jobs_of_another_release_alone(
    kind: tuple[str, ...],
    settings: Settings,
    valkey: ValkeyServer,
    tmp_path: Path,
    revision: str,
    way_out: str,
) -> None:
    served = replace(settings, broker_url=valkey.url) if kind is CELERY else settings
    log = tmp_path / "log"
    # A Celery worker logs it for every message; by the 16th time its fallback has tried to take a job too.
    times = 16 if kind is CELERY else 1
    with (
        Registry.open(settings) as registry,
        running(kind, served, log=log, TEST_PATIENCE_S="0.5") as worker,
    ):
        wait_until(lambda: len(registry.workers.list()) == 1, what="the worker is listed")
        _write_revision(settings, revision)
        job = registry.jobs.submit("train", {"name": "bio"}).id
        wait_until(lambda: log.read_text().count(way_out) >= times, what="it logs why it takes no job")
        untouched = registry.jobs.get(job)
        assert (untouched.state, untouched.attempt, untouched.fence) == ("queued", 0, 0)
        _write_revision(settings, HEAD)
        assert wait_for_state(registry, job, "succeeded", "failed").fence == 1
        assert worker.poll() is None


def _write_revision(settings: Settings, revision: str) -> None:
    with Database(settings) as database, database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
