"""Blobs in a local folder: written beside their place, flushed, then renamed."""

import io
import uuid
from collections.abc import Iterator
from pathlib import Path

from registry.crash_points import crash_point
from registry.errors import ArtifactMissing
from registry.files.blobs.blobs import INCOMING, WRITE_TEST, StoredBlob, digest_at, key_of
from registry.files.blobs.disk import discard_abandoned, free_bytes_at, nearest_existing, sync_folder
from registry.files.regular_files import open_regular


class LocalBlobs:
    """Blobs in a folder, which is created when the first is stored."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def staging_folder(self) -> Path:
        """A new folder on the file system of the blobs, so that they are only renamed."""
        incoming = self._root / INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        discard_abandoned(incoming)
        folder = incoming / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        return folder

    def adopt(self, staged: Path, digest: str) -> None:
        """Rename a file to its digest, replacing a blob that may have been damaged; durable on return."""
        # Read-only, so that it is not edited by accident.
        staged.chmod(0o444)
        path = self._path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(path)
        crash_point("after_artifact_rename")
        sync_folder(path.parent)

    def open(self, digest: str) -> io.FileIO:
        """The blob's bytes, unverified; raises ArtifactMissing."""
        return open_regular(self._path(digest), refusal=ArtifactMissing)

    def exists(self, digest: str) -> bool:
        """Whether there is a blob of this digest."""
        return self._path(digest).is_file()

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob, in no order."""
        for path in self._root.glob("sha256/*/*"):
            digest = digest_at(path.relative_to(self._root).as_posix())
            if digest is not None and path.is_file():
                found = path.stat()
                yield StoredBlob(digest=digest, size_bytes=found.st_size, stored_at=found.st_ctime)

    def delete(self, digest: str) -> None:
        """Remove the blob, if there is one."""
        self._path(digest).unlink(missing_ok=True)

    def where(self, digest: str) -> str:
        """The blob's path."""
        return str(self._path(digest))

    def free_bytes(self) -> int | None:
        """Free bytes on the file system."""
        return free_bytes_at(self._root)

    def try_writing(self) -> None:
        """Write a few bytes to the folder, or the nearest existing one above it, and delete them again."""
        staged = nearest_existing(self._root / INCOMING) / uuid.uuid4().hex
        staged.write_bytes(WRITE_TEST)
        staged.unlink()

    def _path(self, digest: str) -> Path:
        return self._root.joinpath(*key_of(digest))
