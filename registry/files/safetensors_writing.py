"""Writing a safetensors file from bytes that another one held, so that no value passes through a float.

Format: see `safetensors_file`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True)
class NewTensor:
    """A tensor to write; its dtype is called as in the file, "BF16" for example."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray = field(repr=False)


def safetensors_bytes(tensors: Iterable[NewTensor]) -> bytes:
    """The bytes of a file of these tensors, sorted by name, marked as PyTorch's."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    chunks: list[bytes | bytearray] = []
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        begin, end = end, end + len(tensor.data)
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        chunks.append(tensor.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])
