"""What a store of blobs does, and where in it a digest is found.

Existing is not finished: bytes become a blob whole or not at all, so a blob that exists is complete. Reading
does not verify; `artifacts` does.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from registry.errors import ArtifactMissing

#: Folder, or part of a key, of what is being written.
INCOMING = ".incoming"
#: What a store is tried with.
WRITE_TEST = b"written to see whether it can be"

_ALGORITHM = "sha256"
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True, kw_only=True)
class StoredBlob:
    """A blob as a listing of the store shows it."""

    digest: str
    size_bytes: int
    #: Seconds since 1970 at which it was stored last; None where the store does not tell.
    stored_at: float | None


class Blobs(Protocol):
    """A store of blobs; digests are `sha256:<hex>`."""

    def staging_folder(self) -> Path:
        """A new folder on this machine, for this process alone, for files to `adopt`."""

    def adopt(self, staged: Path, digest: str) -> None:
        """Store a flushed file of that digest, which is moved out of the staging folder."""

    def open(self, digest: str) -> IO[bytes] | io.RawIOBase:
        """The blob's bytes, unverified; raises ArtifactMissing."""

    def exists(self, digest: str) -> bool:
        """Whether there is a blob of this digest."""

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob, in no order."""

    def delete(self, digest: str) -> None:
        """Remove the blob, if there is one."""

    def where(self, digest: str) -> str:
        """The blob's path or URL, for messages."""

    def free_bytes(self) -> int | None:
        """Free bytes, None where that is not known."""

    def try_writing(self) -> None:
        """Write a few bytes and delete them again; raises what the file system does."""


def key_of(digest: str) -> tuple[str, str, str]:
    """Path parts of a blob: `sha256`, two digits so that no folder grows without end, and the digits.

    Raises:
        ArtifactMissing: the text is no digest, so nothing can be stored under it.
    """
    algorithm, _, digits = digest.partition(":")
    if algorithm != _ALGORITHM or len(digits) != 64 or not set(digits) <= _DIGITS:
        raise ArtifactMissing(f"{digest!r} is no digest; expected sha256: and 64 hexadecimal digits")
    return algorithm, digits[:2], digits


def digest_at(key: str) -> str | None:
    """The digest whose `key_of` this path ends with; None of any other path."""
    digits = key.rpartition("/")[2]
    if len(digits) != 64 or not set(digits) <= _DIGITS:
        return None
    digest = f"{_ALGORITHM}:{digits}"
    return digest if f"/{key}".endswith("/" + "/".join(key_of(digest))) else None
