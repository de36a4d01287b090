"""Runs of jobs whose owner was killed are closed by whoever ships next."""

import shutil
from pathlib import Path

import pytest

from registry.service import Registry
from tests.services import settings_for
from workers.tracking.ended_runs import close_ended_runs
from workers.tracking.spool import Run, is_open, read_lines


@pytest.fixture
def registry(migrated_sqlite: Path, tmp_path: Path) -> Registry:
    database = shutil.copy(migrated_sqlite, tmp_path / "zoo.db")
    return Registry.open(settings_for(f"sqlite:///{database}", home=tmp_path / "home"))


def test_the_run_of_a_job_that_ended_without_its_owner_is_closed(registry: Registry) -> None:
    with registry:
        ended, waiting = (registry.jobs.submit("train", {"name": name}) for name in ("bio", "law"))
        folders = [registry.settings.home / "jobs" / str(job.id) for job in (ended, waiting)]
        for folder in folders:
            run = Run(folder)
            run.begin(experiment="zoo/train", name="bio", parameters={}, tags={})
            run.close()
        registry.jobs.request_cancel(ended.id)
        close_ended_runs(registry)
        close_ended_runs(registry)  # changes nothing more
    ends = [line.record for line in read_lines(folders[0], offset=0) if line.record["action"] == "end"]
    assert [end["status"] for end in ends] == ["KILLED"]
    assert is_open(folders[1])
