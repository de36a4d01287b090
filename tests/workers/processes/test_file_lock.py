"""A file lock has one holder, and ends with it."""

import os
import signal
import time
from pathlib import Path

import pytest

from workers.processes.file_lock import file_lock, open_lock, try_lock


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "lock"
    with file_lock(path):
        with pytest.raises(BlockingIOError), file_lock(path, wait=False):
            pass
        descriptor = open_lock(path)
        assert not try_lock(descriptor)
    assert try_lock(descriptor)
    with pytest.raises(BlockingIOError), file_lock(path, wait=False):
        pass
    os.close(descriptor)
    with file_lock(path, wait=False):
        pass


@pytest.mark.processes
def test_a_lock_waits_for_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with file_lock(path):
            os.write(writing, b"held")
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.read(reading, 4) == b"held"
    started = time.monotonic()
    with file_lock(path):
        assert time.monotonic() - started > 0.3
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"):
        open_lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()
