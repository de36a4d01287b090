"""The program of the process that reads a pickle: tensors alone, without network, memory and time bounded.

It is given the pickle as standard input and the path of the safetensors file to write, and prints one JSON
object: what isolates it and how many tensors there were, or why it refused.
"""

import json
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from workers.conversion.isolation import (
    NETWORK_NAMESPACE,
    SYSTEM_CALLS,
    leave_network,
    limit_resources,
    refuse_system_calls,
)

#: Beyond some room, a multiple of the file: torch holds its bytes, the tensors, and what is written.
_ROOM_BYTES = 1024**3
_TIMES = 4
_CPU_S = 120
#: Names under which people save the tensors inside other things.
_INSIDE = ("state_dict", "model", "module", "lora")


#: How torch names what a pickle asks for and may not have.
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class _NotTensors(ValueError):
    """The file holds something else than tensors by name."""


def main(target: Path) -> None:
    """Read standard input, write `target`, print the outcome."""
    isolated = [NETWORK_NAMESPACE] if leave_network() else []
    # Before it is bound: its import starts threads and reads many files.
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    size_bytes = os.fstat(0).st_size
    limit_resources(
        further_bytes=_ROOM_BYTES + _TIMES * size_bytes,
        written_bytes=_ROOM_BYTES + _TIMES * size_bytes,
        cpu_s=_CPU_S + size_bytes // 10**7,
    )
    if refuse_system_calls():
        isolated.append(SYSTEM_CALLS)
    if not isolated:
        _print({"not_isolated": True})
        return
    try:
        with os.fdopen(0, "rb", closefd=False) as file:
            tensors = _arrays(file) if _is_archive_of_arrays(file) else _tensors(file)
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, target, {"format": "pt"}
        )
    except MemoryError:
        _print({"refused": "it needs more memory than its size explains"})
    except Exception as error:
        # Whatever torch raises of a stranger's file is the reason why it was refused.
        _print({"refused": _reason(error)})
    else:
        _print({"isolated": isolated, "tensors": len(tensors)})


def _reason(error: Exception) -> str:
    """The reason of a refusal on one line, without torch's advice to load it all the same."""
    asked = _GLOBAL.search(str(error))
    if asked is not None:
        return f"it asks for {asked[1]}, which is no tensor and could run code"
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _tensors(file: IO[bytes]) -> Mapping[str, Any]:
    import torch

    found = torch.load(file, map_location="cpu", weights_only=True)
    for name in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found:
        raise _NotTensors(f"it holds a {type(found).__name__}, expected tensors by name")
    other = next((name for name, value in found.items() if not isinstance(value, torch.Tensor)), None)
    if other is not None:
        raise _NotTensors(f"{other!r} is a {type(found[other]).__name__}, expected a tensor")
    return {str(name): value for name, value in found.items()}


def _arrays(file: IO[bytes]) -> Mapping[str, Any]:
    import numpy as np
    import torch

    with np.load(file, allow_pickle=False) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def _is_archive_of_arrays(file: IO[bytes]) -> bool:
    """Whether it is a .npz: a zip of .npy files."""
    is_zip = zipfile.is_zipfile(file)
    file.seek(0)
    if not is_zip:
        return False
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    file.seek(0)
    return bool(names) and all(name.endswith(".npy") for name in names)


def _print(outcome: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(outcome) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
