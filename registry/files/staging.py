"""Copies of untrusted files, made before they are checked, so that the checked bytes are the stored bytes.

A file is read once, hashed while it is copied, and its copy checked; if the original changes meanwhile, no
unchecked byte is stored. Nothing here interprets a file.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from formats.errors import Refusal
from registry.errors import ArtifactError, DiskFull
from registry.files.regular_files import open_regular, too_large

CHUNK_BYTES = 1024 * 1024
#: One part of a stored path: no links upwards, no hidden files, nothing a shell or Windows reads otherwise.
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_-])?")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class StagedFile:
    """A private copy, with its digest and size."""

    path: Path
    digest: str
    size_bytes: int

    def read(self) -> bytes:
        """All bytes; their number was limited when the file was copied."""
        return self.path.read_bytes()


class Staging:
    """The folder of one registration with copies of the files to store; its opener deletes it."""

    def __init__(self, folder: Path, *, free_bytes: Callable[[], int | None] = lambda: None) -> None:
        self.folder = folder
        self._free_bytes = free_bytes
        self._files: dict[str, StagedFile] = {}

    def __getitem__(self, name: str) -> StagedFile:
        return self._files[name]

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def copy(
        self, source: Path, name: str, *, refusal: Refusal, limit_bytes: int | None = None
    ) -> StagedFile:
        """Copy a regular file, reading it once; `name` is its path among the copies.

        Raises:
            refusal: there is no regular file at `source`, or it is larger than `limit_bytes`.
            ArtifactError: the copy cannot be written, or `name` leads out of the folder.
            DiskFull: there is no space; nothing of the file is kept.
        """
        with open_regular(source, refusal=refusal) as opened:
            size_bytes = os.fstat(opened.fileno()).st_size
            if limit_bytes is not None and size_bytes > limit_bytes:
                raise too_large(source, limit_bytes=limit_bytes, refusal=refusal)
            staged = self._write(opened, name, size_bytes=size_bytes)
        if limit_bytes is not None and staged.size_bytes > limit_bytes:
            raise too_large(source, limit_bytes=limit_bytes, refusal=refusal)
        return staged

    def write(self, name: str, data: bytes) -> StagedFile:
        """Put these bytes where the copy of that name is, or is to be; raises as `copy`."""
        check_paths([name])
        self._files.pop(name, None)
        (self.folder / name).unlink(missing_ok=True)
        return self._write(io.BytesIO(data), name, size_bytes=len(data))

    def _write(self, source: IO[bytes] | io.FileIO, name: str, *, size_bytes: int) -> StagedFile:
        check_paths([*self._files, name])
        path = self.folder / name
        with storing(name, size_bytes=size_bytes, free_bytes=self._free_bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as target:
                digest, copied_bytes = copy_hashed(source, target)
                target.flush()
                os.fsync(target.fileno())
        staged = StagedFile(path=path, digest=digest, size_bytes=copied_bytes)
        self._files[name] = staged
        return staged


def copy_hashed(source: IO[bytes] | io.RawIOBase, target: IO[bytes]) -> tuple[str, int]:
    """Copy all bytes; `sha256:<hex>` and number of what was copied."""
    sha256, size_bytes = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        sha256.update(chunk)
        target.write(chunk)
        size_bytes += len(chunk)
    return f"sha256:{sha256.hexdigest()}", size_bytes


def check_paths(paths: Sequence[str]) -> None:
    """Refuse a path that may lead out of a folder, or two that some file systems do not distinguish.

    Raises:
        ArtifactError: naming the path.
    """
    for path in paths:
        parts = path.split("/")
        if not all(_PART.fullmatch(part) for part in parts) or str(PurePosixPath(path)) != path:
            raise ArtifactError(
                f"{path!r} cannot be a stored file's path: use letters, digits, '.', '_' and '-' in each part"
            )
    folded = [path.casefold() for path in paths]
    twice = next((path for path in paths if folded.count(path.casefold()) > 1), None)
    if twice is not None:
        raise ArtifactError(f"{twice!r} is named twice, or differs from another file only by case")


@contextlib.contextmanager
def storing(name: str, *, size_bytes: int, free_bytes: Callable[[], int | None]) -> Iterator[None]:
    """Translate an operating system's error; for a full disk, with the sizes."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise ArtifactError(f"cannot store {name}: {exc}; see to the folder, or set another") from exc
        left = free_bytes()
        room = "" if left is None else f", {left:,} bytes are free"
        raise DiskFull(
            f"no room for {name}: {size_bytes:,} bytes{room} ({os.strerror(exc.errno)}); nothing was kept."
            " Free some space, or set ZOO_HOME or ZOO_ARTIFACT_ROOT to a larger disk"
        ) from exc
