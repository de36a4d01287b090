"""Opening untrusted files: regular ones only, never through a link, never waiting for a pipe.

Does not interpret the files; the caller chooses the error of a refusal.
"""

import errno
import io
import os
import stat
from pathlib import Path

from formats.errors import Refusal

# Windows has neither flag, and no FIFOs in folders.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def kind_of(mode: int) -> str | None:
    """The kind of file of a mode, in words; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((words for matches, words in _KINDS if matches(mode)), "no regular file")


def open_regular(path: Path, *, refusal: Refusal) -> io.FileIO:
    """Open `path` for reading, unbuffered; the opened file itself is checked, so a later swap has no effect.

    Raises:
        refusal: `path` does not exist, may not be read, or is a link, folder, pipe or device.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as exc:
        raise refusal(_reason(path, exc)) from exc
    kind = kind_of(os.fstat(descriptor).st_mode)
    if kind is not None:
        os.close(descriptor)
        raise refusal(f"{path} is {kind}, expected a regular file")
    return io.FileIO(descriptor, "rb")


def read_bounded(path: Path, *, limit_bytes: int, refusal: Refusal) -> bytes:
    """All bytes of a regular file that has at most `limit_bytes`.

    Raises:
        refusal: as in `open_regular`, or the file is larger.
    """
    with open_regular(path, refusal=refusal) as file:
        data = bytearray()
        while len(data) <= limit_bytes and (chunk := file.read(limit_bytes + 1 - len(data))):
            data += chunk
    if len(data) > limit_bytes:
        raise too_large(path, limit_bytes=limit_bytes, refusal=refusal)
    return bytes(data)


def too_large(path: Path, *, limit_bytes: int, refusal: Refusal) -> Exception:
    """The error for a file that is larger than it may be."""
    return refusal(f"{path} is larger than the {limit_bytes:,} bytes such a file may have")


def names_in(folder: Path, *, refusal: Refusal) -> dict[str, bool]:
    """Entries of a folder by name, sorted: True for a sub-folder, False for a regular file.

    Raises:
        refusal: `folder` is not a folder, or an entry is a link, pipe, socket or device.
    """
    try:
        with os.scandir(folder) as entries:
            modes = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
    except OSError as exc:
        raise refusal(_reason(folder, exc)) from exc
    for name, mode in sorted(modes.items()):
        kind = kind_of(mode)
        if kind is not None and not stat.S_ISDIR(mode):
            raise refusal(
                f"{folder / name} is {kind}; copy the folder with its links resolved"
                f" (cp -rL {folder} copy) and give the copy"
            )
    return {name: stat.S_ISDIR(modes[name]) for name in sorted(modes)}


def _reason(path: Path, exc: OSError) -> str:
    if exc.errno == errno.ELOOP:
        return f"{path} is a symbolic link, expected a regular file"
    if exc.errno == errno.ENOTDIR:
        return f"{path} is not a folder"
    return f"cannot read {path}: {os.strerror(exc.errno or 0)}"
