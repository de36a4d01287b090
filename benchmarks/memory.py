"""Bytes of the tensors that a task needs: model, experts, head, keys and values."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers; tensors that modules share count once."""
    return _bytes([*model.parameters(), *model.buffers()])


def cache_bytes(made: object) -> int:
    """Bytes of the keys and values in the cache that a call of `generate` returned; 0 without a cache."""
    return _bytes(_keys_and_values(getattr(made, "past_key_values", None)))


def _keys_and_values(cache: Any) -> Iterator[Tensor]:
    if cache is None:
        return
    if hasattr(cache, "scaling"):  # the caches of two passes behind one object
        yield from _keys_and_values(cache.scaling)
        yield from _keys_and_values(cache.mixture)
        return
    for layer in cache.layers:
        yield from (part for part in (layer.keys, layer.values) if part is not None)


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
