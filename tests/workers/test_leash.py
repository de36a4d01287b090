"""A child on the leash ends by itself: when the pipe closes, and when it stays silent for a lease."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.leash import EXIT_ABANDONED

ROOT = Path(__file__).resolve().parents[2]

_CHILD = """
import sys, threading
from workers.leash import die_with_parent, hold_leash, read_order
order = read_order(0)
die_with_parent(order["parent_pid"])
hold_leash(0, lease_s=order["lease_s"])
sys.stdout.write("held\\n")
sys.stdout.flush()
threading.Event().wait()
"""


def start(*, lease_s: float, parent_pid: int) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps({"parent_pid": parent_pid, "lease_s": lease_s}).encode() + b"\n")
    return child


def end(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


def test_a_child_ends_when_the_pipe_closes() -> None:
    child = start(lease_s=60, parent_pid=os.getpid())
    try:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"held\n"
        child.stdin.close()
        assert child.wait(timeout=10) == EXIT_ABANDONED
    finally:
        end(child)


def test_a_child_ends_when_no_byte_came_for_a_lease() -> None:
    child = start(lease_s=0.3, parent_pid=os.getpid())
    try:
        assert child.wait(timeout=10) == EXIT_ABANDONED
    finally:
        end(child)


def test_bytes_keep_a_child_longer_than_a_lease() -> None:
    child = start(lease_s=1.0, parent_pid=os.getpid())
    try:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"held\n"
        for _ in range(8):
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(timeout=0.2)
            child.stdin.write(b".")
        assert child.poll() is None
    finally:
        end(child)


def test_a_child_whose_parent_is_another_does_not_start() -> None:
    child = start(lease_s=60, parent_pid=1)
    try:
        assert child.wait(timeout=10) == EXIT_ABANDONED
    finally:
        end(child)
