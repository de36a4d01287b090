"""A safetensors file under other names, or without some of its tensors; the bytes of the others stay."""

import json
from collections.abc import Mapping

from registry.files.safetensors_file import SafetensorsFile

#: Readers map the tensors into memory, and want them at multiples of this.
_ALIGNMENT = 8


def rewritten(file: SafetensorsFile, names: Mapping[str, str]) -> bytes:
    """The file with just the tensors in `names`, each under its new name, in the order of their bytes.

    Raises:
        WeightsInvalid: the file became shorter.
    """
    kept = [entry for entry in file.entries if entry.name in names]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for entry in kept:
        size = entry.end - entry.begin
        offsets = [position, position + size]
        header[names[entry.name]] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": offsets,
        }
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *(file.data_of(entry) for entry in kept)])
