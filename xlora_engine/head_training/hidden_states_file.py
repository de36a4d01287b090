"""The memory-mapped file that hidden states are computed into, so that they may exceed memory.

A safetensors file (https://huggingface.co/docs/safetensors, "Format"), laid out before its values are known.
"""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: A file that is this old and not locked was left by a process that was killed.
_ABANDONED_AFTER_S = 5.0
_BYTES = 2


class HiddenStatesFile:
    """A file under a name of its own until `publish`."""

    def __init__(self, staging: Path) -> None:
        self._staging = staging

    def lay_out(self, starts: Int[Tensor, " row_bound"], width: int) -> Float[Tensor, "token hidden"]:
        """The tensor of the values, to be written in place.

        Raises:
            OSError: the disk has no room for it.
        """
        tokens = int(starts[-1])
        bounds = starts.numpy().tobytes()
        sizes = len(bounds), tokens * width * _BYTES
        header = json.dumps(
            {
                "starts": {"dtype": "I64", "shape": [len(starts)], "data_offsets": [0, sizes[0]]},
                "values": {"dtype": "BF16", "shape": [tokens, width], "data_offsets": [sizes[0], sum(sizes)]},
            }
        ).encode()
        header += b" " * (-len(header) % 8)
        before = len(header).to_bytes(8, "little") + header + bounds
        with self._staging.open("wb") as file:
            file.write(before)
            # A full disk that is found only when a page is written kills the process.
            os.posix_fallocate(file.fileno(), 0, len(before) + sizes[1])
        storage = torch.UntypedStorage.from_file(str(self._staging), True, len(before) + sizes[1])
        values = torch.empty(0, dtype=torch.bfloat16)
        return values.set_(storage, len(before) // _BYTES, (tokens, width), (width, 1))  # type: ignore[arg-type]

    def publish(self, path: Path) -> None:
        """Rename it to `path`, replacing a file there; its values are on the disk by then."""
        with self._staging.open("rb") as file:
            os.fsync(file.fileno())
        self._staging.replace(path)


@contextmanager
def new_hidden_states_file(path: Path) -> Iterator[HiddenStatesFile]:
    """A file to be published at this path; removed if the block ends without that.

    It is locked while the block runs. Files left by killed processes are not, and are removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    staging = path.with_name(f"{path.stem}.{secrets.token_hex(4)}.partial")
    with staging.open("xb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield HiddenStatesFile(staging)
        finally:
            staging.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    for left in folder.glob("*.partial"):
        # A new one is not locked in its first moments.
        with suppress(OSError), left.open("r+b") as file:
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
