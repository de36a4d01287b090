"""Real databases for every test of the registry, and a registry on each."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.entities import AdapterVersion, BaseModel
from registry.service import Registry
from registry.settings import Settings
from tests.registry.folders import write_adapter, write_base


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    """An open registry with nothing in it."""
    with Registry.open(settings) as opened:
        yield opened


@pytest.fixture
def pico(registry: Registry, tmp_path: Path) -> BaseModel:
    """A registered base model."""
    return registry.bases.register(write_base(tmp_path / "pico"), name="pico", source="hub:zoo/pico@abc")


@pytest.fixture
def bio(registry: Registry, pico: BaseModel, tmp_path: Path) -> AdapterVersion:
    """A registered adapter."""
    return registry.adapters.register(write_adapter(tmp_path / "bio"), name="bio", domains=["biology"])
