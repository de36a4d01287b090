"""Folders of verified copies, named by their content: the least recently used make room for new ones.

Several processes share them. A folder in use is locked by those who use it, and the kernel releases the lock
of a process that ends; its modification time says when it was asked for last.
"""

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from registry.files.blobs.disk import discard_abandoned

_NAME = re.compile("[0-9a-f]{64}")
#: A process keeps no more folders locked: each takes one of its open files.
MOST_IN_USE = 200


class FolderCache:
    """The folders in `root`; those in use are kept even if they take more than `limit_bytes` together."""

    def __init__(self, root: Path, *, limit_bytes: int | None = None) -> None:
        self._root = root
        self._limit_bytes = limit_bytes
        #: Name -> the open folder whose lock this process holds, the one asked for last at the end.
        self._in_use: OrderedDict[str, int] = OrderedDict()

    def use(self, name: str) -> Path | None:
        """The folder, kept until `close`; None if there is none, or it is being removed."""
        folder = self._root / name
        descriptor = _open_folder(folder)
        if descriptor is None:
            return None
        if not _share(descriptor) or not _is_at(descriptor, folder):
            os.close(descriptor)
            return None
        self._hold(name, descriptor)
        return folder

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """One process at a time makes a folder of this name; others wait instead of copying it too."""
        self._root.mkdir(parents=True, exist_ok=True)
        discard_abandoned(self._root, prefix=".")
        path = self._root / f".{name}.making"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then both copy it
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    @contextlib.contextmanager
    def making(self, name: str, *, size_bytes: int) -> Iterator[Path]:
        """An empty folder beside the others, after room was made for it; removed unless `publish`ed."""
        self._make_room(size_bytes)
        made = self._root / f".{name}.{uuid.uuid4().hex}"
        try:
            made.mkdir()
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def publish(self, made: Path, name: str) -> Path:
        """Move a finished folder to its name, in use from the start; what is in its place is removed."""
        folder = self._root / name
        descriptor = _open_folder(made)
        if descriptor is not None and _share(descriptor):
            self._hold(name, descriptor)
        while True:
            _discard(folder)
            try:
                made.rename(folder)
            except OSError:
                # A faster process has put its own there; it is replaced, for this one is known to be right.
                if not os.path.lexists(folder):
                    raise
            else:
                return folder

    def close(self) -> None:
        """Use no folder any more."""
        while self._in_use:
            os.close(self._in_use.popitem()[1])

    def _hold(self, name: str, descriptor: int) -> None:
        with contextlib.suppress(OSError):  # a read-only disk: the folder is used, only not remembered
            os.utime(descriptor)
        before = self._in_use.pop(name, None)
        self._in_use[name] = descriptor
        if before is None and len(self._in_use) > MOST_IN_USE:
            before = self._in_use.popitem(last=False)[1]
        if before is not None:
            os.close(before)

    def _make_room(self, size_bytes: int) -> None:
        if self._limit_bytes is None:
            return
        sizes = {folder: _size_bytes(folder) for folder in self._by_last_use()}
        excess = sum(sizes.values()) + size_bytes - self._limit_bytes
        for folder, size in sizes.items():
            if excess <= 0:
                return
            if _removed_unless_in_use(folder):
                excess -= size

    def _by_last_use(self) -> list[Path]:
        """The folders, the one not asked for the longest first."""
        found = []
        for folder in self._root.iterdir():
            if _NAME.fullmatch(folder.name):
                with contextlib.suppress(OSError):  # another process has just removed it
                    found.append((folder.lstat().st_mtime_ns, folder))
        return [folder for _, folder in sorted(found)]


def _open_folder(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None


def _share(descriptor: int) -> bool:
    """Lock a folder beside others who use it; False if it is being removed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where no folder is removed either
        return True
    return True


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether an open folder is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.lstat())
    except FileNotFoundError:
        return False


def _removed_unless_in_use(folder: Path) -> bool:
    descriptor = _open_folder(folder)
    if descriptor is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _discard(folder)
    except OSError:  # in use, or without locks
        return False
    finally:
        os.close(descriptor)
    return True


def _discard(folder: Path) -> None:
    """Move what is there out of the way at once, then delete it."""
    discarded = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
    try:
        folder.rename(discarded)
    except FileNotFoundError:
        return
    if discarded.is_symlink() or discarded.is_file():
        discarded.unlink()
    else:
        shutil.rmtree(discarded, ignore_errors=True)


def _size_bytes(folder: Path) -> int:
    """Of what is in a folder, or as much of it as another process has not yet removed."""
    size_bytes = 0
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            size_bytes += path.lstat().st_size
    return size_bytes
