"""The parent watchdog, which ends a child with its parent: a death signal, and a pipe with the deadline.

Standard library only, so that the watchdog runs before the child imports anything slow.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

#: Exit code of a child whose supervisor is gone, or has not renewed the lease in time.
EXIT_ABANDONED = 79

_PR_SET_PDEATHSIG = 1


def read_order(descriptor: int) -> dict[str, Any]:
    """The JSON line that a supervisor sends first; reads nothing after it out of the pipe."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            os._exit(EXIT_ABANDONED)
        line += byte
    order: dict[str, Any] = json.loads(line)
    return order


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; Linux only.

    The parent may have ended before the call, so this process ends itself if it has another parent by now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(EXIT_ABANDONED)


def start_watchdog(
    descriptor: int, *, until: float, on_renewal: Callable[[float], None] = lambda _: None
) -> None:
    """End this process when the pipe closes, or at `until`, a time of the monotonic clock, in seconds.

    After each renewal of the lease a supervisor writes a line with a later time. Processes on a host share
    that clock, so neither a line that waited in the pipe nor a slow renewal lets a child outlive the lease.
    `on_renewal` is called with that time in a thread of its own, to pass it on to this process's children.
    """
    ends_at = [until]
    threading.Thread(
        target=_watch_pipe, args=(descriptor, ends_at, on_renewal), name="parent watchdog", daemon=True
    ).start()
    threading.Thread(target=_watch_clock, args=(ends_at,), name="lease", daemon=True).start()


def extended_to(until: float) -> bytes:
    """The line by which a supervisor extends a child's life to a time of the monotonic clock."""
    return f"{until:.3f}\n".encode()


def end_like(exit_code: int) -> NoReturn:
    """End this process as another has ended; a negative `exit_code` is a signal, as in `subprocess`."""
    if exit_code < 0:
        if -exit_code != signal.SIGKILL:
            signal.signal(-exit_code, signal.SIG_DFL)
        os.kill(os.getpid(), -exit_code)
    os._exit(exit_code if exit_code >= 0 else 128 - exit_code)


def _watch_pipe(descriptor: int, ends_at: list[float], on_renewal: Callable[[float], None]) -> None:
    rest = b""
    while received := os.read(descriptor, 4096):
        *lines, rest = (rest + received).split(b"\n")
        if lines:
            ends_at[0] = float(lines[-1])
            on_renewal(ends_at[0])
    os._exit(EXIT_ABANDONED)


def _watch_clock(ends_at: list[float]) -> None:
    while (left_s := ends_at[0] - time.monotonic()) > 0:
        time.sleep(min(left_s, 1.0))
    os._exit(EXIT_ABANDONED)
