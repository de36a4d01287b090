"""A worker's one slot: its pool's child and its fallback both take jobs, but never two at once."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def slot_of(worker_pid: int) -> Iterator[bool]:
    """Whether the worker's slot was free; if so, it is held while the block runs, or this process."""
    path = Path(tempfile.gettempdir()) / f"adapter-zoo-slot-{os.getuid()}-{worker_pid}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            try:
                yield True
            finally:
                # Not by closing alone: a pool's child forked meanwhile has inherited the lock.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def forget_slot(worker_pid: int) -> None:
    """Remove the lock file of a worker that ends."""
    (Path(tempfile.gettempdir()) / f"adapter-zoo-slot-{os.getuid()}-{worker_pid}").unlink(missing_ok=True)
