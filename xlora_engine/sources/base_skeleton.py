"""A base model without its weights: its modules, told from its configuration and the names of its weights.

Built on torch's meta device by the same code that loads the weights, so that what is proven here is what is
loaded later.
"""

import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from xlora_engine.errors import BaseUnreadable
from xlora_engine.sources.architectures import UnprovenArchitecture, check_architecture
from xlora_engine.sources.base_model import UNREADABLE, load_config
from xlora_engine.sources.language_model import check_complete, language_model_of

#: What safetensors call a dtype -> what torch calls it; what other dtypes hold is no plain weight.
_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """What is known of a base model before its weights are read."""

    #: Class of `transformers` that is loaded.
    architecture: str
    #: Path of every linear layer and embedding -> (d_out, d_in); of an embedding (vocabulary, width).
    modules: Mapping[str, tuple[int, int]]
    #: What the tests do not cover.
    warnings: tuple[str, ...]


def read_skeleton(
    folder: Path, weights: Mapping[str, tuple[str, tuple[int, ...]]], *, called: Path
) -> Skeleton:
    """The skeleton of a folder's configuration with weights of these names, each a dtype and a shape.

    Messages name the folder `called`; this one may be a copy.

    Raises:
        BaseUnsupported: it is no causal language model, or cannot run the two passes of a mixture.
        BaseUnreadable: a weight is missing, has another shape than the configuration says, or has no layer.
    """
    model_class, config = language_model_of(load_config(folder))
    empty = {name: _empty(name, dtype, shape) for name, (dtype, shape) in weights.items()}
    with _silent():
        try:
            loaded: Any = model_class.from_pretrained(
                None,
                config=config,
                state_dict=empty,
                device_map={"": "meta"},
                output_loading_info=True,
                local_files_only=True,
            )
        except UNREADABLE as error:
            raise BaseUnreadable(f"{model_class.__name__} cannot be made of {called}: {error}") from error
    model, report = loaded
    check_complete(model, report, called)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UnprovenArchitecture)
        check_architecture(model)
    return Skeleton(
        architecture=model_class.__name__,
        modules=_modules(model),
        warnings=tuple(str(one.message) for one in seen if one.category is UnprovenArchitecture),
    )


def _empty(name: str, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    if dtype not in _DTYPES:
        raise BaseUnreadable(
            f"{name} is {dtype}: a quantised weight; take the model that was quantised, or a dequantised copy"
        )
    return torch.empty(shape, dtype=_DTYPES[dtype], device="meta")


def _modules(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        if isinstance(module, Conv1D):
            found[path] = (module.nf, module.nx)
        elif type(module) is nn.Linear:  # a router, or one whose weight another layer reads, is none
            found[path] = (module.out_features, module.in_features)
        elif isinstance(module, nn.Embedding):
            found[path] = (module.num_embeddings, module.embedding_dim)
    return found


@contextmanager
def _silent() -> Any:
    """Inside, `transformers` neither reports on weights, which is done here, nor shows progress."""
    before, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if had_bars:
            logging.enable_progress_bar()
