"""For every test: an environment without the developer's settings, and the marker of those that are quick."""

import gc
import os
import sys
from collections.abc import Iterator

import pytest

#: Fixtures that several folders use.
pytest_plugins = ("tests.services", "tests.s3_server", "tests.command_line", "tests.workers.stocked_zoo")

#: Settings of the zoo and of the libraries beneath it that would change what a test sees.
_SCRUBBED_PREFIXES = ("ZOO_", "MLFLOW_", "HF_", "TRANSFORMERS_", "CUDA_")

#: All tests in these folders start processes, as do those that use these fixtures or parameters.
_FOLDERS_OF_PROCESSES = {"acceptance", "deployment", "faults"}
_FIXTURES_OF_PROCESSES = {"asked", "postgresql", "together", "valkey"}

#: Folders and files whose tests train, generate token by token, build every architecture, import MLflow or
#: wait for servers that never answer.
_LONG = {
    *("adapter_training", "benchmarks", "broker", "checks", "decoding", "head_training", "methods"),
    *(
        "test_adapter_formats.py",
        "test_asking.py",
        "test_architectures.py",
        "test_what_fits_runs.py",
        "test_mlflow_store.py",
        "test_dates.py",
    ),
}

#: Events of Python's own audit at which a process starts.
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"}
_started: list[str] = []


def _note_start(event: str, _: object, *, starts: frozenset[str] = frozenset(_STARTS)) -> None:
    if event in starts:
        _started.append(event)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests/xlora_engine/on_device computes")


def pytest_configure() -> None:
    gc.disable()
    sys.addaudithook(_note_start)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parts = set(item.path.parts)
        used = {*getattr(item, "fixturenames", ()), *map(str, _parameters(item).values())}
        if parts & _FOLDERS_OF_PROCESSES or used & _FIXTURES_OF_PROCESSES:
            item.add_marker("processes")
        if item.get_closest_marker("processes") is None and not parts & _LONG:
            item.add_marker("quick")


def _parameters(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if hasattr(item, "callspec") else {}


def pytest_collection_finish() -> None:
    # As `workers/processes/heavy_imports.py` has it: torch and the modules of the tests stay.
    gc.freeze()
    gc.enable()
    _started.clear()


@pytest.fixture(autouse=True)
def _processes_are_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """So that `make quick` starts none, and no list of those that do goes out of date."""
    yield
    started = [*_started]
    _started.clear()
    assert not started or request.node.get_closest_marker("processes"), (
        f"started a process ({started[0]}); mark the test with pytest.mark.processes"
    )


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(_SCRUBBED_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
