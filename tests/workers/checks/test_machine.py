"""`zoo doctor` on the artifact store, the disk and the GPUs."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from registry.settings import Settings
from tests.workers.findings import only
from workers.checks import artifact_store, disk, gpu
from workers.checks.findings import FAULT, OK, WARNING


def test_a_store_takes_files_and_keeps_none_of_them(settings: Settings) -> None:
    root = Path(settings.artifact_root)
    root.mkdir(parents=True)
    assert only(artifact_store.check(settings)).state != FAULT
    assert list(root.rglob("*")) == []


def test_nothing_is_made_where_there_is_no_store_yet(settings: Settings) -> None:
    assert only(artifact_store.check(settings)).state != FAULT
    assert only(disk.check(settings)).state != FAULT
    assert not settings.home.exists()


def test_a_remote_store_is_asked_too(settings: Settings) -> None:
    assert only(artifact_store.check(replace(settings, artifact_root="memory://zoo"))).state == OK


@pytest.mark.parametrize("root", ["/proc/zoo", "nosuch://bucket/zoo"])
def test_a_store_that_takes_no_files_is_a_fault(settings: Settings, root: str) -> None:
    found = only(artifact_store.check(replace(settings, artifact_root=root)))
    assert found.state == FAULT
    assert "ZOO_ARTIFACT_ROOT" in str(found.fix)


def test_a_home_that_is_a_file_is_a_fault(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert only(disk.check(replace(settings, home=tmp_path / "file" / "home"))).state == FAULT


@pytest.mark.parametrize(("free_gib", "state"), [(0.9, FAULT), (9.9, WARNING), (10.1, OK), (None, OK)])
def test_little_space_is_a_warning_or_a_fault(free_gib: float | None, state: str) -> None:
    free_bytes = None if free_gib is None else int(free_gib * 1024**3)
    assert disk.free_space("disk", "/zoo", free_bytes).state == state


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake `nvidia-smi`, first on the path."""
    script = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return script


@pytest.mark.processes
def test_each_gpu_is_named(settings: Settings, driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.write_text("#!/bin/sh\necho '0, NVIDIA H100, 80000 MiB, 81559 MiB, 580.1'\n")
    driver.chmod(0o755)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.13.0+cpu")
    found, torch = gpu.check(settings)
    assert found.finding == "0: NVIDIA H100, 80000 MiB of 81559 MiB free, driver 580.1"
    assert (torch.state, torch.fix) == (WARNING, "pip install --force-reinstall torch==2.13.0")


@pytest.mark.processes
def test_a_broken_driver_is_a_fault(settings: Settings, driver: Path) -> None:
    driver.write_text('#!/bin/sh\necho "couldn\'t communicate with the NVIDIA driver"\nexit 9\n')
    driver.chmod(0o755)
    found = only(gpu.check(settings))
    assert found.state == FAULT
    assert "couldn't communicate" in found.finding


def test_a_machine_without_one_is_healthy(settings: Settings, driver: Path) -> None:
    assert only(gpu.check(settings)).state == OK
