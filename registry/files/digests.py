"""Digests of files, and of weights by what they hold rather than by how they are written."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from formats.errors import Refusal
from formats.strict_json import shown
from registry.errors import ArtifactMissing, WeightsInvalid
from registry.files.regular_files import open_regular
from registry.files.safetensors_header import TensorEntry, read_header

_CHUNK_BYTES = 1024 * 1024


def file_digest(path: Path, *, refusal: Refusal = ArtifactMissing) -> tuple[str, int]:
    """`sha256:<hex>` and size in bytes of a regular file.

    Raises:
        refusal: there is no regular file at `path`.
    """
    sha256, size_bytes = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with open_regular(path, refusal=refusal) as file:
        while count := file.readinto(buffer):
            sha256.update(buffer[:count])
            size_bytes += count
    return f"sha256:{sha256.hexdigest()}", size_bytes


def weights_digest(*paths: Path) -> str:
    """`sha256:<hex>` over name, dtype, shape and bytes of every tensor in these safetensors files together.

    Equal for equal weights however they are sharded, ordered or annotated: it digests one line of JSON a
    tensor, sorted by name, in which the bytes stand as their own SHA-256. One pass over the files.

    Raises:
        WeightsInvalid: a file is not safetensors, or two of them hold a tensor of the same name.
    """
    lines: dict[str, str] = {}
    for path in paths:
        entries = read_header(path)
        for entry, content in zip(entries, _contents(path, entries), strict=True):
            if entry.name in lines:
                raise WeightsInvalid(f"{path}: tensor {shown(entry.name)} is in another file too")
            lines[entry.name] = json.dumps([entry.name, entry.dtype, list(entry.shape), content])
    sha256 = hashlib.sha256()
    for name in sorted(lines):
        sha256.update(f"{lines[name]}\n".encode())
    return f"sha256:{sha256.hexdigest()}"


def _contents(path: Path, entries: Iterable[TensorEntry]) -> Iterable[str]:
    """Hex SHA-256 of each tensor's bytes, in the order of the file."""
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with open_regular(path, refusal=WeightsInvalid) as file:
        for entry in entries:
            sha256, left = hashlib.sha256(), entry.end - entry.begin
            file.seek(entry.begin)
            while left:
                count = file.readinto(buffer[: min(left, _CHUNK_BYTES)])
                if not count:
                    raise WeightsInvalid(f"{path} became shorter while it was read")
                sha256.update(buffer[:count])
                left -= count
            yield sha256.hexdigest()
