"""A worker's one job slot: its pool's child and its fallback both run jobs, but never two at once."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from workers.processes.file_lock import file_lock


@contextmanager
def slot_of(worker_pid: int) -> Iterator[bool]:
    """Whether the worker's slot was free; if so, it is held until the block or this process ends."""
    with ExitStack() as stack:
        try:
            stack.enter_context(file_lock(_path(worker_pid), wait=False))
        except BlockingIOError:
            yield False
        else:
            yield True


def forget_slot(worker_pid: int) -> None:
    """Remove the lock file of a worker that ends."""
    _path(worker_pid).unlink(missing_ok=True)


def _path(worker_pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"adapter-zoo-slot-{os.getuid()}-{worker_pid}"
