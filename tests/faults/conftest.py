"""A zoo for each test, on SQLite or PostgreSQL, and a broker for each module to break."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.settings import Settings
from tests.brokers import ValkeyServer
from tests.services import settings_for


@pytest.fixture
def settings(migrated_sqlite: Path, tmp_path: Path) -> Settings:
    database = shutil.copy(migrated_sqlite, tmp_path / "zoo.db")
    return settings_for(f"sqlite:///{database}", home=tmp_path / "home")


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()
