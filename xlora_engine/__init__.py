"""X-LoRA in PyTorch: the maths, training, generation, saved models. Knows no database, broker or tracker."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xlora_engine.config import XLoraConfig
    from xlora_engine.model import XLoraModel

__all__ = ["XLoraConfig", "XLoraModel"]


def __getattr__(name: str) -> object:
    """Import on use: who needs the configuration or the errors alone does not pay for torch."""
    if name == "XLoraConfig":
        from xlora_engine.config import XLoraConfig

        return XLoraConfig
    if name == "XLoraModel":
        from xlora_engine.model import XLoraModel

        return XLoraModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
