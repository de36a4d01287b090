"""The owner of a job: a process, named so that others on this host can tell whether it is still alive."""

import os
import platform
from pathlib import Path

_PROC = Path("/proc")
#: Fields of /proc/<pid>/stat after the command's name: state is the first, start time the twentieth.
_STATE, _STARTED = 0, 19


def owner_name(pid: int | None = None) -> str:
    """`host/boot/pid/start` of this process, or of another on this host.

    The start time keeps a process that reuses the pid of a dead one from being taken for it.
    """
    named = os.getpid() if pid is None else pid
    return f"{platform.node()}/{_boot_id()}/{named}/{_started(named)}"


def is_dead(owner: str | None) -> bool:
    """Whether an owner is known to have ended; False where it may be alive, or is on another host."""
    parts = (owner or "").rsplit("/", 3)
    if len(parts) != 4 or parts[0] != platform.node() or not parts[2].isdecimal():
        return False
    _, boot_id, pid, started = parts
    if not boot_id or not started:
        return False
    return boot_id != _boot_id() or started != _started(int(pid))


def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Clock ticks since boot at which the process started; empty for one that has ended, zombies included."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[_STATE] in "ZX" else fields[_STARTED]
