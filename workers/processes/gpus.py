"""Which GPUs a process may use, and locks for each, so that two trainers, or two workers, never share one.

The kernel frees a lock when its holder ends, however it ends: it holds even where a lease was misjudged.
Needs nothing but the standard library; asking CUDA itself would spoil a process for forking (pytorch#40403).
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from workers.errors import GpuBusy, SpecInvalid

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVER = Path("/proc/driver/nvidia/gpus")
#: Another trainer that is ending gives its GPU back within this time.
LOCK_TIMEOUT_S = 30.0
#: A worker that was killed just now is gone within this time; one that serves its GPU stays.
WORKER_LOCK_TIMEOUT_S = 3.0
_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Who holds a lock: the beginning of its file's name, and what is said to whoever wants it too."""

    prefix: str
    refusal: str


_TRAINER = _Kind(
    prefix="gpu",
    refusal="another job still holds GPU {gpu} (lock {path}); list what runs with: zoo jobs ls",
)
_WORKER = _Kind(
    prefix="worker-gpu",
    refusal="another worker of this machine, process {pid}, serves GPU {gpu} already (lock {path});"
    " name other GPUs with --gpu, or end that worker first: zoo workers ls",
)


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that torch would see: all of this machine where nothing limits it.

    What names none, such as -1 or NoDevFiles, hides itself and what is named after it, as CUDA has it.
    """
    there = len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0
    if _VISIBLE not in environ:
        return tuple(map(str, range(there)))
    return tuple(dict.fromkeys(takewhile(lambda name: _may_exist(name, there), _named(environ[_VISIBLE]))))


def _may_exist(name: str, there: int) -> bool:
    """Whether the driver has it, as far as a number tells; without a driver any number may be right."""
    if name.isdecimal():
        return not there or int(name) < there
    return name.startswith(("GPU-", "MIG-"))


def _named(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split(",") if (name := part.strip()))


def offered(text: str) -> str:
    """What a worker is told to offer, `0,1` or UUIDs, in the form of CUDA_VISIBLE_DEVICES.

    Raises:
        SpecInvalid: it names a GPU that this machine does not have: torch would compute on its processors.
    """
    names = _named(text)
    if visible_gpus({_VISIBLE: text}) != names:
        there = ", ".join(visible_gpus({}))
        allowed = f"different GPUs of this machine{f' ({there})' if there else ''}, by commas"
        raise SpecInvalid("--gpu", allowed=allowed, value=text)
    return ",".join(names)


def gpus_for(processes: int, visible: Sequence[str]) -> tuple[str, ...]:
    """One of the visible GPUs for each process, the first ones; none where none is visible.

    Raises:
        SpecInvalid: there are fewer GPUs than processes, and at least one.
    """
    if visible and processes > len(visible):
        allowed = f"at most {len(visible)}, one for each GPU that may be used here ({', '.join(visible)})"
        raise SpecInvalid("processes", allowed=allowed, value=processes)
    return tuple(visible[:processes])


def limited_to(gpus: Sequence[str]) -> dict[str, str]:
    """What keeps torch from seeing other GPUs: a Trainer uses all that it sees."""
    return {_VISIBLE: ",".join(gpus)} if gpus else {}


def lock_gpus(
    gpus: Sequence[str], *, timeout_s: float = LOCK_TIMEOUT_S, folder: Path | None = None
) -> list[int]:
    """Hold every GPU until this process ends; the descriptors that do.

    Raises:
        GpuBusy: another process of this user still holds one after `timeout_s` seconds.
    """
    return _locked(gpus, _TRAINER, timeout_s=timeout_s, folder=folder)


def serve_gpus(
    queues: Sequence[str], *, timeout_s: float = WORKER_LOCK_TIMEOUT_S, folder: Path | None = None
) -> list[int]:
    """Be the one worker of every visible GPU until this process ends; the descriptors that make it so.

    A worker that does not serve the gpu queue hides the GPUs from its jobs: other workers count on them.

    Raises:
        GpuBusy: another worker of this user has one: its jobs would take turns failing with this one's.
    """
    if "gpu" not in queues:
        os.environ[_VISIBLE] = ""
    return _locked(visible_gpus(os.environ), _WORKER, timeout_s=timeout_s, folder=folder)


def _locked(gpus: Sequence[str], kind: _Kind, *, timeout_s: float, folder: Path | None) -> list[int]:
    place = folder or Path(tempfile.gettempdir()) / f"adapter-zoo-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    # In one order everywhere, so that two that want the same GPUs do not wait for each other.
    return [_lock(place, gpu, kind, deadline) for gpu in sorted(gpus)]


def _lock(place: Path, gpu: str, kind: _Kind, deadline: float) -> int:
    path = place / f"{kind.prefix}-{gpu.replace('/', '_')}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                pid = os.pread(descriptor, 32, 0).decode() or "unknown"
                os.close(descriptor)
                raise GpuBusy(kind.refusal.format(gpu=gpu, path=path, pid=pid)) from None
            time.sleep(_POLL_S)
        else:
            # For whoever is refused; the lock alone decides.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor
