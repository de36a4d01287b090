"""The artifact store: files by the digest of their bytes, which is verified before they are used.

Records name files; bytes are in `blobs`, and get there through `staging`. Nothing here interprets a file.
"""

import contextlib
import errno
import io
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from registry.entities import FileRecord
from registry.errors import ArtifactMissing, DigestMismatch
from registry.files.blobs import Blobs, LocalBlobs, RemoteBlobs, discard_abandoned, free_bytes_at
from registry.files.digests import file_digest
from registry.files.json_text import digest_of
from registry.files.staging import StagedFile, Staging, check_paths, copy_hashed, storing


class ArtifactStore:
    """Content-addressed files beneath `root_url`: a path, a file:// URL, or any URL that fsspec opens."""

    def __init__(self, root_url: str) -> None:
        self._blobs = _blobs_at(root_url)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Staging]:
        """A folder for copies of files to store; copies that were not stored are deleted at the end.

        Raises:
            ArtifactError: the folder cannot be created.
            DiskFull: there is no space for it.
        """
        with storing("anything", size_bytes=0, free_bytes=self._blobs.free_bytes):
            folder = self._blobs.staging_folder()
        try:
            yield Staging(folder, free_bytes=self._blobs.free_bytes)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def store(self, staging: Staging, names: Iterable[str]) -> tuple[FileRecord, ...]:
        """Store the copies of these names, in this order; storing equal bytes again changes nothing.

        Raises:
            ArtifactError: a copy cannot be stored, or its bytes are not those that were staged.
            DiskFull: there is no space.
        """
        return tuple(self._stored(name, staging[name]) for name in names)

    def try_writing(self) -> int | None:
        """Write a few bytes and delete them again; the bytes that are free, None where that is not known.

        Raises:
            OSError, or what the file system's driver raises: the store cannot be written to.
        """
        self._blobs.try_writing()
        return self._blobs.free_bytes()

    def exists(self, digest: str) -> bool:
        """Whether bytes of this digest are stored."""
        return self._blobs.exists(digest)

    def open(self, digest: str) -> IO[bytes] | io.FileIO:
        """The stored bytes, unverified; for models use `materialise`. Raises ArtifactMissing."""
        return self._blobs.open(digest)

    def materialise(self, files: Sequence[FileRecord], into: Path) -> Path:
        """A folder in `into`, named by its content, with just these files, every digest verified.

        An existing folder of an earlier call is verified too; if it was changed it is created anew.

        Raises:
            ArtifactMissing: a stored file is missing.
            DigestMismatch: a stored file was changed.
            DiskFull: there is no space; nothing of the folder is kept.
        """
        check_paths([record.path for record in files])
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

    def _stored(self, name: str, staged: StagedFile) -> FileRecord:
        with storing(name, size_bytes=staged.size_bytes, free_bytes=self._blobs.free_bytes):
            self._blobs.adopt(staged.path, staged.digest)
        return FileRecord(path=name, digest=staged.digest, size_bytes=staged.size_bytes)

    def _fetch(self, record: FileRecord, path: Path) -> None:
        with (
            storing(record.path, size_bytes=record.size_bytes, free_bytes=lambda: free_bytes_at(path)),
            self._opened(record) as source,
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as target:
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


def _folder_name(files: Iterable[FileRecord]) -> str:
    return digest_of(sorted([record.path, record.digest] for record in files)).removeprefix("sha256:")


def _holds_exactly(folder: Path, files: Sequence[FileRecord]) -> bool:
    """Whether a folder has exactly these files, unchanged: a reader might use an added one instead."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not _is_folder(path)}
    if found != {record.path for record in files}:
        return False
    try:
        return all(file_digest(folder / record.path)[0] == record.digest for record in files)
    except ArtifactMissing:  # a link or pipe is there instead
        return False


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _swap_in(staged: Path, folder: Path, files: Sequence[FileRecord]) -> None:
    """Rename `staged` to `folder`, which may exist with damaged files, or those of a faster process."""
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
