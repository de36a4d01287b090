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
        descriptor = _alone_at(path)
        try:
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
        with self._renaming():
            replaced = _set_aside(folder)
            made.rename(folder)
        _delete(replaced)
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
            if self._removed_unless_in_use(folder):
                excess -= size

    @contextlib.contextmanager
    def _renaming(self) -> Iterator[None]:
        """One process at a time moves folders in or out, so that each moves the one that it looked at."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # a file system without locks, where none is moved out
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _removed_unless_in_use(self, folder: Path) -> bool:
        with self._renaming():
            removed = _set_aside_unless_in_use(folder)
        _delete(removed)
        return removed is not None

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


def _alone_at(path: Path) -> int:
    """The open file at a path, locked; a file that its last owner removed meanwhile locks nobody out."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: then both copy it
            return descriptor
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)


def _set_aside_unless_in_use(folder: Path) -> Path | None:
    descriptor = _open_folder(folder)
    if descriptor is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _set_aside(folder)
    except OSError:  # in use, or without locks
        return None
    finally:
        os.close(descriptor)


def _set_aside(folder: Path) -> Path | None:
    """Rename what is there, so that it is gone at once; its new path, or None if there is nothing."""
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return None
    return aside


def _delete(aside: Path | None) -> None:
    if aside is None:
        return
    if aside.is_symlink() or aside.is_file():
        aside.unlink()
    else:
        shutil.rmtree(aside, ignore_errors=True)


def _size_bytes(folder: Path) -> int:
    """Of what is in a folder, or as much of it as another process has not yet removed."""
    size_bytes = 0
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            size_bytes += path.lstat().st_size
    return size_bytes
