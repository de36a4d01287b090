"""What decoding costs: how often the base model's decoder runs."""

from collections.abc import Callable
from typing import Any

from xlora_engine.model import XLoraModel


def count_forwards(model: XLoraModel, decode: Callable[[], object]) -> int:
    """How often the base model's decoder runs in `decode`."""
    count = 0

    def counting(*_: Any) -> None:
        nonlocal count
        count += 1

    hook = model.base.get_decoder().register_forward_hook(counting)
    decode()
    hook.remove()
    return count
