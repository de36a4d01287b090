"""Real worker processes for tests: starting and inspecting them, and waiting for what they do."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from registry.entities import Job
from registry.service import Registry
from registry.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
#: The state of a listening socket in /proc/net/tcp.
_LISTENS = "0A"

POLLING = (sys.executable, "-m", "tests.workers.serve")
CELERY = (
    *(sys.executable, "-m", "celery", "-A", "tests.workers.celery_app", "worker"),
    *("--without-mingle", "--without-gossip", "--loglevel", "info", "--hostname", "test@%h"),
)
RELAY = (sys.executable, "-m", "zoo", "relay")


def environment(settings: Settings, **extra: str) -> dict[str, str]:
    """The environment of a process of the zoo, without tracking."""
    broker = {} if settings.broker_url is None else {"ZOO_BROKER_URL": settings.broker_url}
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "ZOO_HOME": str(settings.home),
        "ZOO_DATABASE_URL": settings.database_url,
        "ZOO_LEASE_S": str(settings.lease_s),
        "MLFLOW_TRACKING_URI": "none",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **broker,
        **extra,
    }


def start(
    command: tuple[str, ...], settings: Settings, *, log: IO[bytes] | None = None, **extra: str
) -> "subprocess.Popen[bytes]":
    """Start a process of the zoo, in a session of its own, so that a terminal's signals do not reach it."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(settings, **extra),
        stdout=log or subprocess.DEVNULL,
        stderr=log or subprocess.DEVNULL,
        start_new_session=True,
    )


@contextmanager
def running(
    command: tuple[str, ...], settings: Settings, *, log: Path | None = None, **extra: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is killed, with all its descendants, when the block ends."""
    with (log or Path(os.devnull)).open("ab") as stream:
        process = start(command, settings, log=stream, **extra)
        try:
            yield process
        finally:
            end_tree(process)


def end_tree(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and everything below it."""
    for pid in (process.pid, *descendants(process.pid)):
        send(pid, signal.SIGKILL)
    process.wait()


def send(pid: int, number: int) -> None:
    """Signal a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on, as /proc lists them now."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def command_line(pid: int) -> str:
    """The command line of a process; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def job_processes(pid: int) -> list[int]:
    """The job processes below a worker."""
    return [child for child in descendants(pid) if "workers.attempts.job_process" in command_line(child)]


def listening(pid: int) -> set[str]:
    """The addresses at which a process waits for TCP connections, as /proc has them now."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(descriptor.readlink()))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and f"socket:[{fields[9]}]" in sockets:
                address = fields[1].partition(":")[0]
                words = [address[start : start + 8] for start in range(0, len(address), 8)]
                packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
                found.add(socket.inet_ntop(family, packed))
    return found


def wait_until(holds: Callable[[], bool], *, timeout_s: float = 120.0, what: str) -> float:
    """Seconds until the condition held."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - started


def wait_for_state(registry: Registry, job_id: int, *states: str, timeout_s: float = 120.0) -> Job:
    """The job once it is in one of the states."""
    wait_until(
        lambda: registry.jobs.get(job_id).state in states,
        timeout_s=timeout_s,
        what=f"job {job_id} becomes {states}; it is {registry.jobs.get(job_id)}",
    )
    return registry.jobs.get(job_id)
