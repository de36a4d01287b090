"""The names under which programs save an adapter's weights, and which of them a folder holds."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from formats.peft import CONFIG_FILE, PICKLED_WEIGHTS_FILE, WEIGHTS_FILE

MLX_WEIGHTS_FILE = "adapters.safetensors"
#: Of releases of mlx before safetensors.
MLX_ARRAYS_FILE = "adapters.npz"
ADAPTERHUB_WEIGHTS_FILE = "adapter.safetensors"
ADAPTERHUB_PICKLE_FILE = "pytorch_adapter.bin"

#: Name -> whether it is a pickle, or may hold one.
WEIGHTS: dict[str, bool] = {
    WEIGHTS_FILE: False,
    MLX_WEIGHTS_FILE: False,
    ADAPTERHUB_WEIGHTS_FILE: False,
    PICKLED_WEIGHTS_FILE: True,
    MLX_ARRAYS_FILE: True,
    ADAPTERHUB_PICKLE_FILE: True,
}
#: Those of mlx, whatever its release.
MLX_WEIGHTS = (MLX_WEIGHTS_FILE, MLX_ARRAYS_FILE)

#: A part of weights that are in several files.
_SHARD = re.compile(r"adapter_model-(\d{5})-of-(\d{5})\.(safetensors|bin)")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file with a part of an adapter's weights."""

    name: str
    #: From 1.
    number: int
    of: int
    is_pickle: bool


def shards_among(files: Collection[str]) -> tuple[Shard, ...]:
    """The parts of an adapter's weights among these files, in their order."""
    found = [(name, match) for name in sorted(files) if (match := _SHARD.fullmatch(name))]
    return tuple(
        Shard(name=name, number=int(match[1]), of=int(match[2]), is_pickle=match[3] == "bin")
        for name, match in found
    )


def weights_name(files: Collection[str]) -> str | None:
    """The weights file among these, a safetensors file before a pickle; None if there is none."""
    return next((name for name in WEIGHTS if name in files), None)


def holds_adapter(files: Collection[str]) -> bool:
    """Whether a folder with these files is an adapter's, if perhaps an incomplete one."""
    return CONFIG_FILE in files or weights_name(files) is not None or bool(shards_among(files))
