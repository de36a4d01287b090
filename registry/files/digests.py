"""Digests of files, and of weights by their content instead of their layout in files."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from formats.errors import Refusal
from formats.strict_json import shown
from registry.errors import ArtifactMissing, WeightsInvalid
from registry.files.regular_files import open_regular
from registry.files.safetensors_file import SafetensorsFile, TensorEntry

_CHUNK_BYTES = 1024 * 1024


def file_digest(path: Path, *, refusal: Refusal = ArtifactMissing) -> tuple[str, int]:
    """`sha256:<hex>` and size in bytes of a regular file.

    Raises:
        refusal: there is no regular file at `path`.
    """
    with open_regular(path, refusal=refusal) as file:
        return stream_digest(file)


def stream_digest(file: IO[bytes] | io.RawIOBase) -> tuple[str, int]:
    """`sha256:<hex>` and number of the bytes from where an open file stands to its end."""
    sha256, size_bytes = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    while count := file.readinto(buffer):  # type: ignore[union-attr]  # every file of ours has it
        sha256.update(buffer[:count])
        size_bytes += count
    return f"sha256:{sha256.hexdigest()}", size_bytes


def weights_digest(*files: SafetensorsFile) -> str:
    """`sha256:<hex>` over name, dtype, shape and bytes of every tensor in these files together.

    Raises:
        WeightsInvalid: two of the files hold a tensor of the same name.
    """
    contents: dict[TensorEntry, str] = {}
    names: set[str] = set()
    for file in files:
        for entry in file.entries:
            if entry.name in names:
                raise WeightsInvalid(f"{file.called}: tensor {shown(entry.name)} is in another file too")
            names.add(entry.name)
            contents[entry] = _content_digest(file, entry)
    return joint_digest(contents)


def joint_digest(contents: Mapping[TensorEntry, str]) -> str:
    """`sha256:<hex>` over tensors of different names, each with the hexadecimal SHA-256 of its bytes.

    Equal for equal weights however they are sharded, ordered or annotated: it digests one line of JSON a
    tensor, sorted by name, with the SHA-256 of its bytes.
    """
    sha256 = hashlib.sha256()
    for entry in sorted(contents, key=lambda entry: entry.name):
        line = json.dumps([entry.name, entry.dtype, list(entry.shape), contents[entry]])
        sha256.update(f"{line}\n".encode())
    return f"sha256:{sha256.hexdigest()}"


def _content_digest(file: SafetensorsFile, entry: TensorEntry) -> str:
    sha256 = hashlib.sha256()
    for chunk in file.chunks_of(entry):
        sha256.update(chunk)
    return sha256.hexdigest()
