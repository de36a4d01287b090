"""How a child process ends with its parent: the kernel's death signal, and a pipe that says until when.

Needs nothing but the standard library, so that a child is on the leash before it imports anything slow.
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

#: how a child ends whose supervisor is gone, or silent for a whole lease
EXIT_ABANDONED = 79

_PR_SET_PDEATHSIG = 1


def read_order(descriptor: int) -> dict[str, Any]:
    """The JSON line that a supervisor sends first; nothing after it is taken out of the pipe."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            os._exit(EXIT_ABANDONED)
        line += byte
    order: dict[str, Any] = json.loads(line)
    return order


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; does nothing but on Linux.

    The parent may have ended before the request was made, so it is looked for afterwards.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(EXIT_ABANDONED)


def hold_leash(
    descriptor: int, *, until: float, on_renewal: Callable[[float], None] = lambda _: None
) -> None:
    """End this process when the pipe closes, or at `until`, a reading of the monotonic clock, in seconds.

    A supervisor writes a later time, a line each, after each renewal of the lease. Processes of a host share
    that clock, so neither a line that waited in the pipe nor a slow renewal lets a child outlive the lease.
    `on_renewal` is told the time, in a thread of its own: to pass it on to children of this process.
    """
    ends_at = [until]
    threading.Thread(
        target=_watch_pipe, args=(descriptor, ends_at, on_renewal), name="leash", daemon=True
    ).start()
    threading.Thread(target=_watch_clock, args=(ends_at,), name="lease", daemon=True).start()


def longer(until: float) -> bytes:
    """What a supervisor writes into the pipe."""
    return f"{until:.3f}\n".encode()


def end_like(exit_code: int) -> NoReturn:
    """End this process as another has: by the same signal, where `exit_code` is that of one less than 0."""
    if exit_code < 0:
        if -exit_code != signal.SIGKILL:
            signal.signal(-exit_code, signal.SIG_DFL)
        os.kill(os.getpid(), -exit_code)
    os._exit(exit_code if exit_code >= 0 else 128 - exit_code)


def _watch_pipe(descriptor: int, ends_at: list[float], on_renewal: Callable[[float], None]) -> None:
    rest = b""
    while said := os.read(descriptor, 4096):
        *lines, rest = (rest + said).split(b"\n")
        if lines:
            ends_at[0] = float(lines[-1])
            on_renewal(ends_at[0])
    os._exit(EXIT_ABANDONED)


def _watch_clock(ends_at: list[float]) -> None:
    while (left_s := ends_at[0] - time.monotonic()) > 0:
        time.sleep(min(left_s, 1.0))
    os._exit(EXIT_ABANDONED)
