"""A registry on SQLite without tracking, and jobs whose work is a function of `tests.workers.handlers`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copy

import pytest

from registry.entities import Job
from registry.service import Registry
from registry.settings import Settings
from tests.services import settings_for
from workers.requests.specs import TrainSpec
from workers.tracking.shipping import NO_TRACKING


@pytest.fixture
def settings(migrated_sqlite: Path, tmp_path: Path) -> Settings:
    database = copy(migrated_sqlite, tmp_path / "zoo.db")
    return replace(
        settings_for(f"sqlite:///{database}", home=tmp_path / "home"), mlflow_tracking_uri=NO_TRACKING
    )


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    with Registry.open(settings) as opened:
        yield opened


@pytest.fixture
def job(registry: Registry) -> Job:
    spec = TrainSpec(name="bio", base="pico", train_dataset="bio.train@1")
    return registry.jobs.submit(spec.kind, spec.to_json())
