"""Space on this machine's disks, durable renames, and what killed processes left there."""

import os
import shutil
import time
from pathlib import Path

#: No upload takes a day; an older file was left by a process that was killed.
_ABANDONED_S = 24 * 3600


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system has a way to."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes_at(path: Path) -> int | None:
    """Free bytes on the file system of `path`, which need not exist yet."""
    return shutil.disk_usage(nearest_existing(path)).free


def nearest_existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(above for above in (path, *path.parents) if above.exists())


def discard_abandoned(folder: Path, *, prefix: str = "") -> None:
    """Delete unfinished entries of killed processes in a folder, recognised by age and `prefix`."""
    oldest = time.time() - _ABANDONED_S
    for staged in folder.glob(f"{prefix}*"):
        try:
            if staged.lstat().st_mtime >= oldest:
                continue
            if staged.is_dir():
                shutil.rmtree(staged, ignore_errors=True)
            else:
                staged.unlink()
        except FileNotFoundError:  # its owner has just renamed it
            continue
