"""Writing a file so that a reader, or the next attempt after a crash, sees all of it or none."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to, renamed over it after the block, or deleted if the block raises.

    `durable`: flush the content to the disk before the rename.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield staged
        if durable:
            _flush(staged)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
