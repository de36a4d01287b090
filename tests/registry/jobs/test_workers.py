"""Workers are listed while they announce themselves, and no longer."""

import pytest

from registry.database.database import Database
from registry.jobs.workers import WorkerStore


@pytest.fixture
def workers(database: Database) -> WorkerStore:
    return WorkerStore(database)


def _announce(workers: WorkerStore, name: str, *, state: str = "working") -> None:
    workers.announce(name, host="box", process_id=7, queues=["gpu", "cpu"], gpu="0", state=state)


def test_a_worker_is_listed_with_what_it_serves(workers: WorkerStore) -> None:
    _announce(workers, "box/boot/7/1")
    (worker,) = workers.list()
    assert (worker.host, worker.process_id, worker.queues, worker.gpu) == ("box", 7, ("gpu", "cpu"), "0")
    assert worker.state == "working"


def test_a_worker_that_says_so_again_is_the_same_seen_later(workers: WorkerStore) -> None:
    _announce(workers, "box/boot/7/1")
    (first,) = workers.list()
    _announce(workers, "box/boot/7/1", state="draining")
    (again,) = workers.list()
    assert again.state == "draining"
    assert again.started_at == first.started_at
    assert again.seen_at >= first.seen_at


def test_a_worker_that_left_or_was_not_seen_lately_is_not_listed(workers: WorkerStore) -> None:
    _announce(workers, "one")
    _announce(workers, "two")
    workers.remove("one")
    workers.remove("nobody")
    assert [worker.name for worker in workers.list(seen_within_s=60)] == ["two"]
    assert workers.list(seen_within_s=-60) == ()
