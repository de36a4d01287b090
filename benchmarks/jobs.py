"""Measures the job system's latencies and rates, on real processes and servers.

python -m benchmarks.jobs
"""

import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from registry.database.database import Database
from registry.database.reader import Row, open_reader
from registry.jobs.rows import insert
from registry.lists import queries
from registry.service import Registry
from registry.settings import Settings
from tests.brokers import ValkeyServer
from tests.services import CRASH_SAFE, new_postgres, settings_for
from tests.workers.started_processes import CELERY, POLLING, RELAY, running, wait_for_state, wait_until
from workers.attempts.runner import job_folder, run_here

REPETITIONS = 20


def say(what: str, value: str) -> None:
    sys.stdout.write(f"{what}: {value}\n")
    sys.stdout.flush()


def spread(values_s: list[float]) -> str:
    ordered = sorted(values_s)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {statistics.median(ordered):.3f} s, p99 {p99:.3f} s of {len(ordered)}"


def claims(settings: Settings, *, count: int = 300) -> str:
    """Claim and finish, one process."""
    with Registry.open(settings) as registry:
        for number in range(count):
            registry.jobs.submit("train", {"n": number})
        started = time.perf_counter()
        while (job := registry.jobs.claim_next(owner="bench", lease_s=60)) is not None:
            registry.jobs.finish(job.id, fence=job.fence, state="succeeded", reason="ok")
        return f"{count / (time.perf_counter() - started):.0f} claims and ends per second"


def listed(settings: Settings, *, count: int = 10_000) -> str:
    with Registry.open(settings) as registry:
        with Database(settings) as database, database.write() as session:
            for number in range(count):
                insert(
                    session,
                    {
                        "kind": "train",
                        "spec": {"name": f"a{number}", "base": "b", "steps": 200},
                        "spec_digest": str(number),
                        "queue": "cpu",
                        "priority": 0,
                        "max_attempts": 3,
                        "idempotency_key": None,
                    },
                )
        page, everything = (
            min(_timed(partial(_queued, settings, limit)) for _ in "12345") for limit in (20, None)
        )
        claim = _timed(lambda: registry.jobs.claim_next(owner="bench", lease_s=60))
    return f"newest 20 {page * 1000:.1f} ms, all {everything * 1000:.0f} ms, one claim {claim * 1000:.1f} ms"


def submit_to_start(settings: Settings, command: tuple[str, ...] | None) -> str:
    """From the submission to the job's claim; without a worker, to its end, because it starts at once."""
    delays = []
    with Registry.open(settings) as registry:
        if command is None:
            for number in range(REPETITIONS):
                job = registry.jobs.submit("train", {"n": number})
                delays.append(_timed(partial(run_here, registry, job.id, handlers=_HANDLERS)))
            return spread(delays)
        with running(command, settings):
            wait_for_state(registry, registry.jobs.submit("train", {}).id, "succeeded")
            for number in range(REPETITIONS):
                started = time.monotonic()
                job = registry.jobs.submit("train", {"n": number})
                while registry.jobs.get(job.id).state == "queued":
                    time.sleep(0.002)
                delays.append(time.monotonic() - started)
                wait_for_state(registry, job.id, "succeeded")
    return spread(delays)


def dead_worker(settings: Settings) -> str:
    """From kill -9 of the worker to the claim of its job by another on the same host."""
    delays = []
    with Registry.open(settings) as registry, running(POLLING, settings, TEST_HANDLER="wait_to_be_stopped"):
        wait_until(lambda: bool(registry.workers.list()), what="a worker")
        for number in range(5):
            # The first worker serves another queue, so that the second takes the job.
            job = registry.jobs.submit("train", {"n": number}, queue="gpu")
            with running((*POLLING, "gpu"), settings, TEST_HANDLER="wait_to_be_stopped") as worker:
                wait_until((job_folder(registry, job.id) / "pid").exists, what="the job")
                worker.kill()
                started = time.monotonic()
                wait_until(partial(registry.jobs.is_claimable, job.id), what="noticed")
                delays.append(time.monotonic() - started)
                registry.jobs.request_cancel(job.id)
    return spread(delays)


def drain(settings: Settings, command: tuple[str, ...]) -> str:
    """From SIGTERM to the exit of a worker whose job saves a checkpoint at once."""
    delays = []
    with Registry.open(settings) as registry:
        for number in range(3):
            job = registry.jobs.submit("train", {"n": number})
            with running(command, settings, TEST_HANDLER="wait_to_be_stopped") as worker:
                wait_until((job_folder(registry, job.id) / "pid").exists, what="the job")
                started = time.monotonic()
                worker.send_signal(signal.SIGTERM)
                worker.wait(timeout=120)
                delays.append(time.monotonic() - started)
            registry.jobs.request_cancel(job.id)
    return spread(delays)


def wiped(settings: Settings, spoil: Callable[[], None]) -> str:
    """From the wipe to the claim of a job that was queued just before."""
    delays = []
    with Registry.open(settings) as registry, running(CELERY, settings):
        wait_for_state(registry, registry.jobs.submit("train", {}).id, "succeeded")
        for number in range(3):
            job = registry.jobs.submit("train", {"n": number})
            started = time.monotonic()
            spoil()
            wait_until(partial(_has_left_the_queue, registry, job.id), what="the claim")
            delays.append(time.monotonic() - started)
            wait_for_state(registry, job.id, "succeeded")
    return spread(delays)


def submissions(settings: Settings, valkey: ValkeyServer) -> str:
    """Latency of a submission, with a broker that answers and with one that hangs, while a relay runs."""

    def latencies() -> str:
        return spread(
            [
                _timed(
                    lambda: registry.jobs.submit("train", {}),
                )
                for _ in range(100)
            ]
        )

    with Registry.open(settings) as registry, running(RELAY, settings):
        answering = latencies()
        valkey.freeze()
        try:
            return f"answering {answering}; hung {latencies()}"
        finally:
            valkey.thaw()


def _has_left_the_queue(registry: Registry, job_id: int) -> bool:
    return registry.jobs.get(job_id).state != "queued"


def _queued(settings: Settings, limit: int | None) -> list[Row]:
    with open_reader(settings) as reader:
        return queries.jobs(reader, states=["queued"], limit=limit)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


_HANDLERS = {"train": "tests.workers.handlers:succeed"}


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="zoo-bench-"))
    postgres = new_postgres(CRASH_SAFE)
    valkey = ValkeyServer(folder / "valkey")
    numbers = iter(range(100))

    def sqlite() -> Settings:
        own = folder / str(next(numbers))
        own.mkdir()
        return replace(
            settings_for(f"sqlite:///{own / 'zoo.db'}", home=own / "home"), mlflow_tracking_uri="none"
        )

    def with_broker() -> Settings:
        valkey.client().flushall()
        return replace(sqlite(), broker_url=valkey.url)

    def restart() -> None:
        valkey.kill()
        valkey.start()

    try:
        say("claims, sqlite", claims(sqlite()))
        on_postgres = replace(
            settings_for(postgres.url("postgres"), home=folder / "pg"), mlflow_tracking_uri="none"
        )
        say("claims, postgresql", claims(on_postgres))
        say("10,000 queued jobs, sqlite", listed(sqlite()))
        say("submissions", submissions(with_broker(), valkey))
        say("submit to start, polling", submit_to_start(sqlite(), POLLING))
        say("submit to start, broker", submit_to_start(with_broker(), CELERY))
        say("submit to end of an empty job, embedded", submit_to_start(sqlite(), None))
        say("dead worker noticed, same host", dead_worker(sqlite()))
        say("SIGTERM to exit, polling", drain(sqlite(), POLLING))
        say("SIGTERM to exit, celery", drain(with_broker(), CELERY))
        say("delay after FLUSHALL", wiped(with_broker(), lambda: valkey.client().flushall()))
        say("delay after kill -9 and restart", wiped(with_broker(), restart))
    finally:
        valkey.stop()
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
