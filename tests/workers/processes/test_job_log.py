"""A log is appended to, and stays within its limit."""

import os
from pathlib import Path

from workers.processes.job_log import JobLog


def test_a_later_attempt_writes_after_the_one_before(tmp_path: Path) -> None:
    for word in (b"first\n", b"second\n"):
        with JobLog(tmp_path) as log:
            os.write(log.descriptor, word)
    assert log.path.read_bytes() == b"first\nsecond\n"


def test_a_log_over_its_limit_is_moved_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    with JobLog(tmp_path, limit_bytes=10) as log:
        writer = os.dup(log.descriptor)
        os.write(writer, b"0123456789")
        log.keep_small()
        assert log.path.read_bytes() == b"0123456789"
        os.write(writer, b"over\n")
        log.keep_small()
        os.write(writer, b"new\n")
        os.close(writer)
    assert log.path.read_bytes() == b"new\n"
    assert (tmp_path / "log.older.txt").read_bytes() == b"0123456789over\n"
