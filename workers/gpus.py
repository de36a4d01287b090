"""Which GPUs a process may use, and a lock for each, so that two trainers never share one.

The kernel frees a lock when its holder ends, however it ends: it holds even where a lease was misjudged.
Needs nothing but the standard library; asking CUDA itself would spoil a process for forking (pytorch#40403).
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.errors import GpuBusy, SpecInvalid

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVER = Path("/proc/driver/nvidia/gpus")
#: Another trainer that is ending gives its GPU back within this time.
LOCK_TIMEOUT_S = 30.0
_POLL_S = 0.1


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that torch would see: all of this machine where nothing limits it."""
    if _VISIBLE in environ:
        return tuple(name.strip() for name in environ[_VISIBLE].split(",") if name.strip())
    return tuple(str(index) for index in range(len(list(_DRIVER.iterdir())))) if _DRIVER.is_dir() else ()


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
    place = folder or Path(tempfile.gettempdir()) / f"adapter-zoo-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    # In one order everywhere, so that two that want the same GPUs do not wait for each other.
    return [_locked(place / f"gpu-{gpu.replace('/', '_')}.lock", gpu, deadline) for gpu in sorted(gpus)]


def _locked(path: Path, gpu: str, deadline: float) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise GpuBusy(
                    f"another job still holds GPU {gpu} (lock {path}); list what runs with: zoo jobs ls"
                ) from None
            time.sleep(_POLL_S)
        else:
            return descriptor
