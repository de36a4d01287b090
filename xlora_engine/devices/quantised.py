"""Quantised layers of a base model are called unchanged; this keeps gradients passing through them."""

from collections.abc import Iterator

from torch import nn

from xlora_engine.errors import BaseUnsupported

#: bitsandbytes' 4-bit layer, recognised by name, so that it need not be installed.
_PACKING = "Linear4bit"


def keep_unpacked(base: nn.Module, *, unpacked: bool = True) -> None:
    """Keep bitsandbytes from packing 4-bit weights for its inference kernel, or allow it again.

    On some CPUs (AVX512-BF16) it packs a layer's weights the first time the layer runs in evaluation
    mode, permanently: the scales are rounded to bfloat16, and the kernel has no backward. A base model
    never leaves that mode here, so the layer is marked as training, which has no other effect on it.
    """
    for layer in _packing_layers(base):
        layer.training = unpacked


def require_differentiable(base: nn.Module) -> None:
    """Refuse to train through layers that block gradients.

    Raises:
        BaseUnsupported: bitsandbytes had packed 4-bit weights before the model was built on them.
    """
    for layer in _packing_layers(base):
        if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
            raise BaseUnsupported(
                "bitsandbytes has packed this base model's 4-bit weights for inference, and no gradient "
                "passes; load the base model again and build the mixture before you run it"
            )


def _packing_layers(base: nn.Module) -> Iterator[nn.Module]:
    for layer in base.modules():
        if any(kind.__name__ == _PACKING for kind in type(layer).__mro__):
            yield layer
