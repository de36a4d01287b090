"""Blobs beneath a URL of any file system that fsspec has a driver for.

A listing that the driver remembers would hide what other machines store, so it remembers none.
"""

import hashlib
import io
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from registry.crash_points import crash_point
from registry.errors import ArtifactError, ArtifactMissing, DigestMismatch, RegistryError
from registry.files.blobs.blobs import INCOMING, WRITE_TEST, StoredBlob, digest_at, key_of
from registry.files.staging import copy_hashed

#: A larger file is sent in parts of this size; S3 takes 10,000 parts, of at least 5 MiB.
PART_BYTES = 50 * 2**20
#: As much of a blob as is asked for at once.
_READ_BYTES = 8 * 2**20

#: A file system, the file to send, the key, and the digest that its bytes must have.
Publish = Callable[[Any, Path, str, str], None]


class StoreUnreachable(ArtifactError):
    """The artifact store does not answer, or its driver failed."""

    code = "ZOO-E284"
    exit_code = 6
    reason = "infra"


class RemoteBlobs:
    """Blobs beneath a URL."""

    def __init__(self, root_url: str) -> None:
        self._root_url = root_url
        self._system  # noqa: B018 - so that a URL that nothing opens is refused here

    @property
    def _system(self) -> Any:
        """The driver, which fsspec keeps for each process: one made before a fork is of no use after it."""
        import fsspec

        return fsspec.core.url_to_fs(self._root_url, use_listings_cache=False)[0]

    def staging_folder(self) -> Path:
        """A new folder among the temporary files of this machine."""
        return Path(tempfile.mkdtemp(prefix="zoo-staging-"))

    def adopt(self, staged: Path, digest: str) -> None:
        """Send a file to its digest's key, where nothing is seen before all of it is there.

        Raises:
            DigestMismatch: the bytes that were read to be sent are not those that were staged.
            ArtifactError: the store refuses them.
            StoreUnreachable: it does not answer.
        """
        system = self._system
        names = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
        publish = next((_PUBLISHED_BY[name] for name in names if name in _PUBLISHED_BY), _moved)
        with self._translated():
            publish(system, staged, self._path(*key_of(digest)), digest)
        crash_point("after_artifact_rename")
        staged.unlink()

    def open(self, digest: str) -> io.RawIOBase:
        """The blob's bytes, unverified; raises ArtifactMissing, ArtifactError and StoreUnreachable."""
        path = self._path(*key_of(digest))
        with self._translated():
            try:
                opened = self._system.open(path, "rb", block_size=_READ_BYTES)
            except FileNotFoundError as exc:
                raise ArtifactMissing(f"there is nothing at {self.where(digest)}") from exc
        return _Remote(opened, self._translated)

    def exists(self, digest: str) -> bool:
        """Whether there is a blob of this digest."""
        with self._translated():
            try:
                # Not `isfile`, which calls anything that goes wrong a missing file.
                return bool(self._system.info(self._path(*key_of(digest)))["type"] == "file")
            except FileNotFoundError:
                return False

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob, in no order."""
        with self._translated():
            found = self._system.find(self._path("sha256"), detail=True)
        for key, described in found.items():
            digest = digest_at(key)
            if digest is not None:
                yield StoredBlob(
                    digest=digest, size_bytes=int(described["size"]), stored_at=_stored_at(described)
                )

    def delete(self, digest: str) -> None:
        """Remove the blob, if there is one."""
        with self._translated():
            try:
                self._system.rm_file(self._path(*key_of(digest)))
            except FileNotFoundError:
                return

    def where(self, digest: str) -> str:
        """The blob's URL."""
        return str(self._system.unstrip_protocol(self._path(*key_of(digest))))

    def free_bytes(self) -> int | None:
        """Not known of an object store."""
        return None

    def try_writing(self) -> None:
        """Send a few bytes and delete them again; raises ArtifactError and StoreUnreachable."""
        with self._translated():
            self._system.pipe_file(path := self._path(INCOMING, uuid.uuid4().hex), WRITE_TEST)
            self._system.rm_file(path)

    def _path(self, *parts: str) -> str:
        root = str(self._system._strip_protocol(self._root_url))
        return "/".join((root.rstrip("/"), *parts))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Drivers raise errors of the operating system, or of their own libraries."""
        try:
            yield
        except RegistryError:
            raise
        except (TimeoutError, ConnectionError) as exc:
            raise self._unreachable(exc) from exc
        except OSError as exc:
            said = f"{type(exc).__name__}: {exc}"
            raise ArtifactError(
                f"the artifact store {self._beginning()} refuses it ({said}); check that the bucket or folder"
                " exists and that this account may read and write it: zoo doctor"
            ) from exc
        except Exception as exc:  # of the driver's libraries, whatever they are
            raise self._unreachable(exc) from exc

    def _unreachable(self, exc: Exception) -> StoreUnreachable:
        return StoreUnreachable(
            f"the artifact store {self._beginning()} does not answer: {type(exc).__name__}: {exc}; check"
            " ZOO_ARTIFACT_ROOT and the driver's own settings, then: zoo doctor"
        )

    def _beginning(self) -> str:
        """What may be repeated of the URL: the rest may hold a key."""
        scheme, _, rest = self._root_url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"


class _Remote(io.RawIOBase):
    """A blob that is being read; what its driver raises is translated."""

    def __init__(self, opened: IO[bytes], translated: Callable[[], Any]) -> None:
        self._opened = opened
        self._translated = translated

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._translated():
            data = self._opened.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


def _moved(system: Any, staged: Path, key: str, digest: str) -> None:
    """Written to a key of its own and moved: of file systems that show what is being written."""
    folder, _, _ = key.rpartition("/sha256/")
    incoming = f"{folder}/{INCOMING}/{uuid.uuid4().hex}"
    try:
        system.makedirs(incoming.rpartition("/")[0], exist_ok=True)
        with staged.open("rb") as source, system.open(incoming, "wb") as target:
            found, _ = copy_hashed(source, target)
        _require(found, digest, staged)
        system.makedirs(key.rpartition("/")[0], exist_ok=True)
        system.mv(incoming, key)
    finally:
        if system.exists(incoming):
            system.rm_file(incoming)


def _committed(system: Any, staged: Path, key: str, digest: str) -> None:
    """Sent to its key at once, in parts if it is large: an object is seen when its upload is complete.

    An upload that fails is ended, so that its parts are not kept; that of a killed process is seen by nobody.
    """
    if staged.stat().st_size <= PART_BYTES:
        data = staged.read_bytes()
        _require(f"sha256:{hashlib.sha256(data).hexdigest()}", digest, staged)
        system.pipe_file(key, data)
        return
    upload = system.open(key, "wb", block_size=PART_BYTES, autocommit=False)
    try:
        with staged.open("rb") as source:
            found, _ = copy_hashed(source, upload)
        upload.close()
        _require(found, digest, staged)
        upload.commit()
    except BaseException:
        with suppress(Exception):  # the first error is the one to tell
            upload.close()
        with suppress(Exception):
            upload.discard()
        raise


def _require(found: str, digest: str, staged: Path) -> None:
    if found != digest:
        raise DigestMismatch(f"{staged} has digest {found}, expected {digest}; register it again")


#: Protocol -> how a blob gets to its key; any other is written beside it and moved.
_PUBLISHED_BY: Mapping[str, Publish] = {"s3": _committed, "s3a": _committed}


def _stored_at(described: Mapping[str, Any]) -> float | None:
    """Drivers give this time different names and types."""
    for name in ("LastModified", "mtime", "modified", "created"):
        value = described.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None
