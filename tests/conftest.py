"""For every test: an environment without the developer's settings. What tests import is never collected."""

import gc
import os

import pytest

#: Fixtures that several folders use.
pytest_plugins = ("tests.services", "tests.command_line")

#: Settings of the zoo and of the libraries beneath it that would change what a test sees.
_SCRUBBED_PREFIXES = ("ZOO_", "MLFLOW_", "HF_", "TRANSFORMERS_", "CUDA_")


def pytest_configure() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    # As `workers/processes/heavy_imports.py` has it: torch and the modules of the tests stay.
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_SCRUBBED_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
