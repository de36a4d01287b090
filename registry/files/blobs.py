"""The bytes of artifacts: blobs named by digest, in a local folder or beneath an fsspec URL.

Knows nothing of records. Existing is not finished: bytes are written to a staging folder, hashed, flushed,
then renamed, so a blob that exists is complete. Reading does not verify; `artifacts` does.
"""

import io
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import IO, Any, Protocol

from registry.crash_points import crash_point
from registry.errors import ArtifactMissing, DigestMismatch
from registry.files.regular_files import open_regular
from registry.files.staging import copy_hashed

_INCOMING = ".incoming"
_WRITE_TEST = b"written to see whether it can be"
#: No upload takes a day; an older file was left by a process that was killed.
_ABANDONED_S = 24 * 3600


class Blobs(Protocol):
    """A store of blobs; digests are `sha256:<hex>`."""

    def staging_folder(self) -> Path:
        """A new folder on this machine, for this process alone, for files to `adopt`."""

    def adopt(self, staged: Path, digest: str) -> None:
        """Store a flushed file of that digest, which is moved out of the staging folder."""

    def open(self, digest: str) -> IO[bytes] | io.FileIO:
        """The blob's bytes, unverified; raises ArtifactMissing."""

    def exists(self, digest: str) -> bool:
        """Whether there is a blob of this digest."""

    def where(self, digest: str) -> str:
        """The blob's path or URL, for messages."""

    def free_bytes(self) -> int | None:
        """Free bytes, None where that is not known."""

    def try_writing(self) -> None:
        """Write a few bytes and delete them again; raises what the file system does."""


class LocalBlobs:
    """Blobs in a folder, which is created when the first is stored."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def staging_folder(self) -> Path:
        """A new folder on the file system of the blobs, so that they are only renamed."""
        incoming = self._root / _INCOMING
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

    def where(self, digest: str) -> str:
        """The blob's path."""
        return str(self._path(digest))

    def free_bytes(self) -> int | None:
        """Free bytes on the file system."""
        return free_bytes_at(self._root)

    def try_writing(self) -> None:
        """Write a few bytes to the folder, or the nearest existing one above it, and delete them again."""
        staged = _existing(self._root / _INCOMING) / uuid.uuid4().hex
        staged.write_bytes(_WRITE_TEST)
        staged.unlink()

    def _path(self, digest: str) -> Path:
        return self._root.joinpath(*key_of(digest))


class RemoteBlobs:
    """Blobs beneath a URL of any file system that fsspec has a driver for."""

    def __init__(self, root_url: str) -> None:
        import fsspec

        self._system: Any
        self._root: str
        self._system, self._root = fsspec.core.url_to_fs(root_url)

    def staging_folder(self) -> Path:
        """A new folder among the temporary files of this machine."""
        return Path(tempfile.mkdtemp(prefix="zoo-staging-"))

    def adopt(self, staged: Path, digest: str) -> None:
        """Upload to a key of its own, then move to the digest's key.

        Raises:
            DigestMismatch: the uploaded bytes are not those that were staged.
        """
        incoming = self._path(_INCOMING, uuid.uuid4().hex)
        try:
            self._system.makedirs(self._path(_INCOMING), exist_ok=True)
            with staged.open("rb") as source, self._system.open(incoming, "wb") as target:
                found, _ = copy_hashed(source, target)
            if found != digest:
                raise DigestMismatch(f"{staged} has digest {found}, expected {digest}; register it again")
            key = self._path(*key_of(digest))
            self._system.makedirs(key.rpartition("/")[0], exist_ok=True)
            self._system.mv(incoming, key)
        finally:
            if self._system.exists(incoming):
                self._system.rm_file(incoming)
        staged.unlink()

    def open(self, digest: str) -> IO[bytes]:
        """The blob's bytes, unverified; raises ArtifactMissing."""
        try:
            opened: IO[bytes] = self._system.open(self._path(*key_of(digest)), "rb")
        except FileNotFoundError as exc:
            raise ArtifactMissing(f"there is nothing at {self.where(digest)}") from exc
        return opened

    def exists(self, digest: str) -> bool:
        """Whether there is a blob of this digest."""
        return bool(self._system.isfile(self._path(*key_of(digest))))

    def where(self, digest: str) -> str:
        """The blob's URL."""
        return str(self._system.unstrip_protocol(self._path(*key_of(digest))))

    def free_bytes(self) -> int | None:
        """Not known of an object store."""
        return None

    def try_writing(self) -> None:
        """Upload a few bytes and delete them again; raises what the driver does."""
        staged = self._path(_INCOMING, uuid.uuid4().hex)
        self._system.makedirs(self._path(_INCOMING), exist_ok=True)
        self._system.pipe_file(staged, _WRITE_TEST)
        self._system.rm_file(staged)

    def _path(self, *parts: str) -> str:
        return "/".join((self._root.rstrip("/"), *parts))


def key_of(digest: str) -> tuple[str, str, str]:
    """Path parts of a blob: `sha256`, two digits so that no folder grows without end, and the digits.

    Raises:
        ArtifactMissing: the text is no digest, so nothing can be stored under it.
    """
    algorithm, _, digits = digest.partition(":")
    if algorithm != "sha256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ArtifactMissing(f"{digest!r} is no digest; expected sha256: and 64 hexadecimal digits")
    return algorithm, digits[:2], digits


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
    return shutil.disk_usage(_existing(path)).free


def _existing(path: Path) -> Path:
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
