"""What a heartbeat does while the database cannot be written."""

import itertools
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from registry.errors import DiskFull, RegistryError, ServiceUnreachable
from registry.service import Registry
from tests.services import settings_for
from workers.attempts.heartbeat import Heartbeat


class RefusingAtFirst:
    """A store whose first two beats fail."""

    def __init__(self, store: Any, error: RegistryError) -> None:
        self._store = store
        self._error = error
        self._beats = itertools.count()

    def beat(self, *arguments: Any, **options: Any) -> Any:
        if next(self._beats) < 2:
            raise self._error
        return self._store.beat(*arguments, **options)


@pytest.fixture
def registry(migrated_sqlite: Path, tmp_path: Path) -> Registry:
    database = shutil.copy(migrated_sqlite, tmp_path / "zoo.db")
    return Registry.open(settings_for(f"sqlite:///{database}", home=tmp_path / "home"))


@pytest.mark.parametrize("error", [DiskFull("no room"), ServiceUnreachable("away")])
def test_a_beat_that_cannot_be_written_is_tried_again_while_the_lease_holds(
    error: RegistryError, registry: Registry
) -> None:
    with registry:
        submitted = registry.jobs.submit("train", {"name": "bio"})
        job = registry.jobs.claim(submitted.id, owner="me", lease_s=3.0)
        assert job is not None
        store: Any = RefusingAtFirst(registry.jobs, error)
        heartbeat = Heartbeat(store, job, lease_s=3.0)
        try:
            held_at_first = heartbeat.held_until
            deadline = time.monotonic() + 10
            while heartbeat.held_until == held_at_first:
                assert time.monotonic() < deadline, "no beat was written"
                assert not heartbeat.lost.is_set()
                time.sleep(0.02)
        finally:
            heartbeat.stop()
