"""The artifact store: files by the digest of their bytes, handed out only after they were verified.

Records name files; bytes are in `blobs`. Nothing here knows what a file means.
"""

import contextlib
import errno
import io
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from registry.entities import FileRecord
from registry.errors import ArtifactError, ArtifactMissing, DigestMismatch, DiskFull
from registry.files.blobs import Blobs, LocalBlobs, RemoteBlobs, copy_hashed, discard_abandoned, free_bytes_at
from registry.files.digests import file_digest
from registry.files.json_text import digest_of
from registry.files.regular_files import open_regular

#: One part of a stored path: no links upwards, no hidden files, nothing a shell or Windows reads otherwise.
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_-])?")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ArtifactStore:
    """Content-addressed files beneath `root_url`: a path, a file:// URL, or any URL that fsspec opens."""

    def __init__(self, root_url: str) -> None:
        self._blobs = _blobs_at(root_url)

    def put_file(self, path: Path, *, name: str | None = None) -> FileRecord:
        """Store one file; storing equal bytes again changes nothing. `name` is its path in the record.

        Raises:
            ArtifactMissing: there is no regular file at `path`.
            DiskFull: there is no room; nothing of the file is kept.
        """
        with open_regular(path, refusal=ArtifactMissing) as source:
            size_bytes = os.fstat(source.fileno()).st_size
            return self._put(source, name=path.name if name is None else name, size_bytes=size_bytes)

    def put_bytes(self, data: bytes, *, name: str) -> FileRecord:
        """Store bytes as if they were a file called `name`; raises DiskFull."""
        return self._put(io.BytesIO(data), name=name, size_bytes=len(data))

    def probe(self) -> int | None:
        """Write a few bytes and delete them again; the room that is left, None where nobody can tell.

        Raises:
            OSError, or what the file system's driver raises: the store takes no files.
        """
        self._blobs.probe()
        return self._blobs.free_bytes()

    def put_folder(
        self, folder: Path, names: Iterable[str], *, replaced: Mapping[str, bytes] | None = None
    ) -> tuple[FileRecord, ...]:
        """Store the named files of a folder, in this order; `replaced` holds what is stored instead of some.

        Raises:
            ArtifactMissing: one of them is no regular file.
            ArtifactError: a file cannot be written, a name leads out of the folder, or two names are
                the same where case does not count.
            DiskFull: there is no room.
        """
        listed, instead = list(names), replaced or {}
        _check_paths(listed)
        return tuple(
            self.put_bytes(instead[name], name=name)
            if name in instead
            else self.put_file(folder / name, name=name)
            for name in listed
        )

    def exists(self, digest: str) -> bool:
        """Whether bytes of this digest are stored."""
        return self._blobs.exists(digest)

    def open(self, digest: str) -> IO[bytes] | io.FileIO:
        """The stored bytes, unverified; what feeds a model uses `materialise`. Raises ArtifactMissing."""
        return self._blobs.open(digest)

    def materialise(self, files: Sequence[FileRecord], into: Path) -> Path:
        """A folder in `into`, named by what it holds, with just these files, every digest verified.

        A folder that is there from an earlier call is verified too; if it was changed it is made anew.

        Raises:
            ArtifactMissing: bytes of a record are gone.
            DigestMismatch: stored bytes are not those that were stored.
            DiskFull: there is no room; nothing of the folder is kept.
        """
        _check_paths([record.path for record in files])
        folder = into / _folder_name(files)
        if _holds_exactly(folder, files):
            return folder
        into.mkdir(parents=True, exist_ok=True)
        discard_abandoned(into, prefix=".")
        staged = into / f".{folder.name}.{uuid.uuid4().hex}"
        try:
            staged.mkdir()
            for record in files:
                self._fetch(record, staged / record.path)
            _swap_in(staged, folder, files)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return folder

    def _put(self, source: IO[bytes] | io.FileIO, *, name: str, size_bytes: int) -> FileRecord:
        with _storing(name, size_bytes=size_bytes, free=self._blobs.free_bytes):
            digest, stored_bytes = self._blobs.put(source)
        return FileRecord(path=name, digest=digest, size_bytes=stored_bytes)

    def _fetch(self, record: FileRecord, place: Path) -> None:
        with (
            _storing(record.path, size_bytes=record.size_bytes, free=lambda: free_bytes_at(place)),
            self._opened(record) as source,
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as target:
                found, _ = copy_hashed(source, target)
        if found != record.digest:
            raise DigestMismatch(
                f"{record.path}: the stored file has digest {found}, expected {record.digest}; it was changed"
                f" on disk. Restore {self._blobs.where(record.digest)} from a backup, or register the same"
                " files again, which stores it anew"
            )

    def _opened(self, record: FileRecord) -> IO[bytes] | io.FileIO:
        try:
            return self._blobs.open(record.digest)
        except ArtifactMissing as exc:
            raise ArtifactMissing(
                f"{record.path}: the stored file is gone ({exc}). Restore it from a backup, or register the"
                " same files again, which stores it anew"
            ) from exc


def _blobs_at(root_url: str) -> Blobs:
    path = root_url.removeprefix("file://").removeprefix("local://")
    if "://" in path:
        return RemoteBlobs(root_url)
    return LocalBlobs(Path(path).expanduser().absolute())


def _check_paths(paths: Sequence[str]) -> None:
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


def _folder_name(files: Iterable[FileRecord]) -> str:
    return digest_of(sorted([record.path, record.digest] for record in files)).removeprefix("sha256:")


def _holds_exactly(folder: Path, files: Sequence[FileRecord]) -> bool:
    """Whether a folder has these files, unchanged, and no other: a reader might prefer what was added."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not _is_folder(path)}
    if found != {record.path for record in files}:
        return False
    try:
        return all(file_digest(folder / record.path)[0] == record.digest for record in files)
    except ArtifactMissing:  # a link or pipe took the file's place
        return False


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _swap_in(staged: Path, folder: Path, files: Sequence[FileRecord]) -> None:
    """Rename `staged` to `folder`, which may hold damaged files, or those of a process that was faster."""
    if os.path.lexists(folder):
        if _holds_exactly(folder, files):
            return
        discarded = staged.with_name(f"{staged.name}.old")
        folder.rename(discarded)
        if discarded.is_symlink() or discarded.is_file():
            discarded.unlink()
        else:
            shutil.rmtree(discarded, ignore_errors=True)
    try:
        staged.rename(folder)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _holds_exactly(folder, files):
            raise


@contextlib.contextmanager
def _storing(name: str, *, size_bytes: int, free: Callable[[], int | None]) -> Iterator[None]:
    """Say what an operating system's refusal to store means; where the disk is full, with the sizes."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise ArtifactError(f"cannot store {name}: {exc}; see to the folder, or set another") from exc
        left = free()
        room = "" if left is None else f", {left:,} bytes are free"
        raise DiskFull(
            f"no room for {name}: {size_bytes:,} bytes{room} ({os.strerror(exc.errno)}); nothing was kept."
            " Free some space, or set ZOO_HOME or ZOO_ARTIFACT_ROOT to a larger disk"
        ) from exc
