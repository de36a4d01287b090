"""The names under which programs save an adapter's weights, and which of them a folder holds."""

from collections.abc import Collection

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


def weights_name(files: Collection[str]) -> str | None:
    """The weights file among these, a safetensors file before a pickle; None if there is none."""
    return next((name for name in WEIGHTS if name in files), None)


def holds_adapter(files: Collection[str]) -> bool:
    """Whether a folder with these files is an adapter's, if perhaps an incomplete one."""
    return CONFIG_FILE in files or weights_name(files) is not None
