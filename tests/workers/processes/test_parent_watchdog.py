"""A child under the parent watchdog ends by itself: when the pipe closes, and when its time is over."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers.processes.parent_watchdog import EXIT_ABANDONED, extended_to

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[3]

_CHILD = """
import sys, threading
from workers.processes.parent_watchdog import die_with_parent, start_watchdog, read_order
order = read_order(0)
die_with_parent(order["parent_pid"])
start_watchdog(0, until=order["until"])
sys.stdout.write("ready\\n")
sys.stdout.flush()
threading.Event().wait()
"""


def start(*, for_s: float, parent_pid: int) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None
    order = {"parent_pid": parent_pid, "until": time.monotonic() + for_s}
    child.stdin.write(json.dumps(order).encode() + b"\n")
    return child


def end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


def test_a_child_ends_when_the_pipe_closes() -> None:
    child = start(for_s=60, parent_pid=os.getpid())
    try:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdin.close()
        assert child.wait(timeout=10) == EXIT_ABANDONED
    finally:
        end(child)


def test_a_child_ends_when_its_time_is_over() -> None:
    child = start(for_s=0.3, parent_pid=os.getpid())
    try:
        assert child.wait(timeout=10) == EXIT_ABANDONED
    finally:
        end(child)


def test_a_later_time_keeps_a_child() -> None:
    child = start(for_s=2.0, parent_pid=os.getpid())
    try:
        assert child.stdin is not None
        child.stdin.write(extended_to(time.monotonic() + 60))
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=2.5)
    finally:
        end(child)


def test_a_child_whose_parent_is_another_does_not_start() -> None:
    child = start(for_s=60, parent_pid=1)
    try:
        assert child.wait(timeout=10) == EXIT_ABANDONED
    finally:
        end(child)


def test_an_old_line_in_the_pipe_does_not_extend_a_child() -> None:
    child = start(for_s=60, parent_pid=os.getpid())
    try:
        assert child.stdin is not None
        child.stdin.write(extended_to(time.monotonic() + 60)[:3])
        child.stdin.write(extended_to(time.monotonic() + 60)[3:] + extended_to(time.monotonic() - 1))
        assert child.wait(timeout=10) == EXIT_ABANDONED
    finally:
        end(child)
