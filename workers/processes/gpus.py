"""Which GPUs a process may use, and a lock on each, so that two jobs, or two workers, never share one.

A lock ends with its holder, so it protects a GPU even where a lease was lost while its process still runs.
Standard library only: asking CUDA would initialise it, and a process that has must not fork (pytorch#40403).
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from workers.errors import GpuBusy, SpecInvalid
from workers.processes.file_lock import open_lock, try_lock

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVER = Path("/proc/driver/nvidia/gpus")
#: A job process that is ending releases its GPU within this time.
LOCK_TIMEOUT_S = 30.0
#: A worker that was just killed is gone within this time; a healthy one keeps its lock.
WORKER_LOCK_TIMEOUT_S = 3.0
_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """A kind of lock holder: the prefix of its lock files, and the message for a process that is refused."""

    prefix: str
    refusal: str


_JOB = _Holder(
    prefix="gpu",
    refusal="another job still holds GPU {gpu} (lock {path}); list what runs with: zoo jobs ls",
)
_WORKER = _Holder(
    prefix="worker-gpu",
    refusal="another worker of this machine, process {pid}, serves GPU {gpu} already (lock {path});"
    " name other GPUs with --gpu, or end that worker first: zoo workers ls",
)


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that torch would see: all of this machine unless CUDA_VISIBLE_DEVICES is set.

    As in CUDA, an entry that names no GPU, such as -1 or NoDevFiles, hides itself and all entries after it.
    """
    there = len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0
    if _VISIBLE not in environ:
        return tuple(map(str, range(there)))
    return tuple(dict.fromkeys(takewhile(lambda name: _may_exist(name, there), _named(environ[_VISIBLE]))))


def _may_exist(name: str, there: int) -> bool:
    """Whether the driver has this GPU, as far as a number tells; without a driver any number may be right."""
    if name.isdecimal():
        return not there or int(name) < there
    return name.startswith(("GPU-", "MIG-"))


def _named(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def offered(text: str) -> str:
    """The GPUs a worker shall serve, `0,1` or UUIDs, in the form of CUDA_VISIBLE_DEVICES.

    Raises:
        SpecInvalid: this machine lacks one of them, so torch would silently compute on the CPU.
    """
    names = _named(text)
    if visible_gpus({_VISIBLE: text}) != names:
        there = ", ".join(visible_gpus({}))
        allowed = f"different GPUs of this machine{f' ({there})' if there else ''}, by commas"
        raise SpecInvalid("--gpu", allowed=allowed, value=text)
    return ",".join(names)


def gpus_for(processes: int, visible: Sequence[str]) -> tuple[str, ...]:
    """The first visible GPUs, one for each process; empty where no GPU is visible.

    Raises:
        SpecInvalid: some GPUs are visible, but fewer than processes.
    """
    if visible and processes > len(visible):
        allowed = f"at most {len(visible)}, one for each GPU that may be used here ({', '.join(visible)})"
        raise SpecInvalid("processes", allowed=allowed, value=processes)
    return tuple(visible[:processes])


def limited_to(gpus: Sequence[str]) -> dict[str, str]:
    """The variable that hides other GPUs from torch, because a Trainer uses all that it sees."""
    return {_VISIBLE: ",".join(gpus)} if gpus else {}


def lock_gpus(
    gpus: Sequence[str], *, timeout_s: float = LOCK_TIMEOUT_S, folder: Path | None = None
) -> list[int]:
    """Lock every GPU until this process ends; the locks' descriptors.

    Raises:
        GpuBusy: another process of this user still holds one after `timeout_s` seconds.
    """
    return _locked(gpus, _JOB, timeout_s=timeout_s, folder=folder)


def serve_gpus(
    queues: Sequence[str], *, timeout_s: float = WORKER_LOCK_TIMEOUT_S, folder: Path | None = None
) -> list[int]:
    """Make this process the one worker of every visible GPU until it ends; the locks' descriptors.

    A worker that does not serve the gpu queue hides the GPUs from its jobs, because they belong to others.

    Raises:
        GpuBusy: another worker of this user serves one; jobs of the two would fail on each other's locks.
    """
    if "gpu" not in queues:
        os.environ[_VISIBLE] = ""
    return _locked(visible_gpus(os.environ), _WORKER, timeout_s=timeout_s, folder=folder)


def _locked(gpus: Sequence[str], holder: _Holder, *, timeout_s: float, folder: Path | None) -> list[int]:
    locks = folder or Path(tempfile.gettempdir()) / f"adapter-zoo-{os.getuid()}"
    locks.mkdir(mode=0o700, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    # Always in the same order, so that two processes that want the same GPUs cannot deadlock.
    return [_lock(locks, gpu, holder, deadline) for gpu in sorted(gpus)]


def _lock(locks: Path, gpu: str, holder: _Holder, deadline: float) -> int:
    path = locks / f"{holder.prefix}-{gpu.replace('/', '_')}.lock"
    descriptor = open_lock(path)
    while not try_lock(descriptor):
        if time.monotonic() > deadline:
            pid = os.pread(descriptor, 32, 0).decode() or "unknown"
            os.close(descriptor)
            raise GpuBusy(holder.refusal.format(gpu=gpu, path=path, pid=pid))
        time.sleep(_POLL_S)
    # For the message to a process that is refused; the lock alone decides.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor
