"""When a worker that receives no message polls the database itself."""

import shutil
import time
from pathlib import Path

import pytest

from registry.service import Registry
from tests.services import settings_for
from tests.workers.started_processes import wait_until
from workers.broker.fallback import Fallback
from workers.worker.identity import this_worker


@pytest.fixture
def registry(migrated_sqlite: Path, tmp_path: Path) -> Registry:
    database = shutil.copy(migrated_sqlite, tmp_path / "zoo.db")
    return Registry.open(settings_for(f"sqlite:///{database}", home=tmp_path / "home"))


def test_each_job_leaves_time_for_its_message_to_arrive(registry: Registry) -> None:
    with registry:
        registry.jobs.submit("train", {"name": "bio"})
        taken_at: list[float] = []

        def take() -> bool:
            taken_at.append(time.monotonic())
            return True

        fallback = Fallback(registry, this_worker(["cpu"]), take, patience_s=0.5)
        try:
            wait_until(lambda: len(taken_at) == 2, what="two jobs are taken")
        finally:
            fallback.stop()
        assert taken_at[1] - taken_at[0] > 0.5
