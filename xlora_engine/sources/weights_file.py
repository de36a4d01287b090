"""Tensors of a saved model: only safetensors. A pickle runs code when it is read, so none ever is."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from xlora_engine.errors import PickleRefused, SavedFileUnreadable

_CONVERT = (
    'convert it where you trust it: python -c "import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('{pickled}', weights_only=True), '{name}')\""
)


def load_weights(path: Path, *, pickled: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file; `pickled` is the name of the pickle that an implementation writes instead.

    Raises:
        PickleRefused: only the pickle exists; the message says how to convert it.
        SavedFileUnreadable: the file is missing or damaged.
    """
    if pickled is not None and not path.exists():
        convert = _CONVERT.format(pickled=pickled, name=path.name)
        if path.with_name(pickled).exists():
            raise PickleRefused(f"{path.with_name(pickled)} is a pickle, which may run any code; {convert}")
        raise SavedFileUnreadable(f"{path} is missing; if there is a {pickled}, {convert}")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SavedFileUnreadable(f"cannot read {path}: {error}") from error
