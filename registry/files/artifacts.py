"""The artifact store: files by the digest of their bytes, which is verified before they are used.

Records name files; bytes are in `blobs`, and get there through `staging`. Nothing here interprets a file.
"""

import contextlib
import hashlib
import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from registry.entities import FileRecord
from registry.errors import ArtifactMissing, DigestMismatch
from registry.files.blobs.blobs import Blobs, StoredBlob
from registry.files.blobs.disk import free_bytes_at
from registry.files.blobs.local_folder import LocalBlobs
from registry.files.blobs.remote import RemoteBlobs
from registry.files.digests import file_digest, stream_digest
from registry.files.folder_cache import FolderCache
from registry.files.json_text import digest_of
from registry.files.staging import StagedFile, Staging, check_paths, copy_hashed, storing


class ArtifactStore:
    """Content-addressed files beneath `root_url`: a path, a file:// URL, or any URL that fsspec opens."""

    def __init__(self, root_url: str, *, cache_limit_bytes: int | None = None) -> None:
        self._blobs = _blobs_at(root_url)
        self._cache_limit_bytes = cache_limit_bytes
        self._caches: dict[Path, FolderCache] = {}

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

    def open(self, digest: str) -> IO[bytes] | io.RawIOBase:
        """The stored bytes, unverified; for models use `materialise`. Raises ArtifactMissing."""
        return self._blobs.open(digest)

    def read(self, digest: str) -> bytes:
        """All bytes of a small stored file, verified.

        Raises:
            ArtifactMissing: it is missing.
            DigestMismatch: it was changed.
        """
        with self._blobs.open(digest) as stored:
            data: bytes = stored.read() or b""
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest:
            raise self._changed("a stored file", found=found, expected=digest)
        return data

    def verify(self, digest: str) -> int:
        """Read a stored file to its end; its size in bytes.

        Raises:
            ArtifactMissing: it is missing.
            DigestMismatch: it was changed.
        """
        with self._blobs.open(digest) as stored:
            found, size_bytes = stream_digest(stored)
        if found != digest:
            raise self._changed("a stored file", found=found, expected=digest)
        return size_bytes

    def blobs(self) -> Iterator[StoredBlob]:
        """Every stored file, in no order."""
        return self._blobs.blobs()

    def delete(self, digest: str) -> None:
        """Remove a stored file, if there is one; whether anything needs it is for the caller to know."""
        self._blobs.delete(digest)

    def materialise(self, files: Sequence[FileRecord], into: Path) -> Path:
        """A folder in `into`, named by its content, with just these files, every digest verified.

        An existing folder of an earlier call is verified too; if it was changed it is created anew. It is
        kept until `close` or the end of this process; then another may need its place.

        Raises:
            ArtifactMissing: a stored file is missing.
            DigestMismatch: a stored file was changed.
            StoreUnreachable: the store does not answer.
            DiskFull: there is no space; nothing of the folder is kept.
        """
        check_paths([record.path for record in files])
        name = _folder_name(files)
        cache = self._cache_in(into)
        folder = _unchanged(cache.use(name), files)
        if folder is not None:
            return folder
        with cache.alone(name):
            # Another process may have made it meanwhile.
            folder = _unchanged(cache.use(name), files)
            if folder is not None:
                return folder
            with cache.making(name, size_bytes=sum(record.size_bytes for record in files)) as made:
                for record in files:
                    self._fetch(record, made / record.path)
                return cache.publish(made, name)

    def close(self) -> None:
        """Use no folder of `materialise` any more."""
        for cache in self._caches.values():
            cache.close()

    def _cache_in(self, root: Path) -> FolderCache:
        if root not in self._caches:
            self._caches[root] = FolderCache(root, limit_bytes=self._cache_limit_bytes)
        return self._caches[root]

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
            raise self._changed(record.path, found=found, expected=record.digest)

    def _changed(self, called: str, *, found: str, expected: str) -> DigestMismatch:
        return DigestMismatch(
            f"{called}: the stored file has digest {found}, expected {expected}; it was changed"
            f" on disk. Restore {self._blobs.where(expected)} from a backup, or register the same"
            " files again, which stores it anew"
        )

    def _opened(self, record: FileRecord) -> IO[bytes] | io.RawIOBase:
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


def _unchanged(folder: Path | None, files: Sequence[FileRecord]) -> Path | None:
    return folder if folder is not None and _holds_exactly(folder, files) else None


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
