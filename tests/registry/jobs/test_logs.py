"""A followed log yields every character once, even if it arrives in pieces or the log is truncated."""

import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry.errors import ArtifactMissing
from registry.jobs import logs
from registry.jobs.logs import followed
from registry.service import Registry


def append(log: Path, written: bytes) -> None:
    with log.open("ab") as stream:
        stream.write(written)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll without a pause, and a limited number of times."""
    looks = itertools.count()

    def look_again(_: float) -> None:
        assert next(looks) < 100, "nothing more came"

    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=look_again, monotonic=time.monotonic))
    monkeypatch.setattr(logs, "_SAY_EVERY_S", 0.0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


@pytest.fixture
def running_job(registry: Registry, log: Path) -> int:
    """A job whose worker has begun to write its log."""
    job = registry.jobs.submit("train", {"name": "bio"}).id
    registry.jobs.claim(job, owner="here", lease_s=60)
    registry.jobs.set_log(job, str(log), 1)
    append(log, b"one\n\xc3")
    return job


def test_what_is_written_is_given_once_to_the_last_letter(
    registry: Registry, running_job: int, log: Path
) -> None:
    pieces = followed(registry.jobs, running_job, say=lambda _: None)
    assert next(pieces) == "one\n"
    append(log, b"\xa4\n")
    assert next(pieces) == "\xe4\n"
    log.write_bytes(b"cut\n")
    assert next(pieces) == "cut\n"
    append(log, b"last\n")
    registry.jobs.finish(running_job, fence=1, state="succeeded", reason="ok")
    assert list(pieces) == ["last\n"]


def test_how_far_the_job_is_is_said_once_for_each_report(
    registry: Registry, running_job: int, log: Path
) -> None:
    said: list[str] = []
    pieces = followed(registry.jobs, running_job, say=said.append)
    for step in (1, 1, 2):
        registry.jobs.beat(
            running_job, fence=1, lease_s=60, progress={"phase": "x", "step": step, "total": 2}
        )
        append(log, b".")
        next(pieces)
    registry.jobs.finish(running_job, fence=1, state="succeeded", reason="ok")
    assert list(pieces) == []
    assert said == ["x 1/2", "x 2/2"]


def test_a_log_that_goes_away_under_the_reader_is_said(
    registry: Registry, running_job: int, log: Path
) -> None:
    pieces = followed(registry.jobs, running_job, say=lambda _: None)
    next(pieces)
    log.unlink()
    with pytest.raises(ArtifactMissing):
        next(pieces)


def test_the_machine_is_that_of_the_last_attempt(registry: Registry, running_job: int) -> None:
    registry.jobs.requeue(running_job, fence=1, reason="drained", refund=True)
    registry.jobs.claim(running_job, owner="elsewhere/boot/5/1", lease_s=60)
    assert logs.ran_on(registry.jobs.events(running_job)) == "elsewhere"
