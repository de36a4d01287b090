"""The uniform mixture: every expert weighs 1/n, for every token and layer.

It is stored as the X-LoRA model that it is: a head of zeros, whose softmax gives every expert the same share.
So whatever reads X-LoRA reads it; here, where the weights are known, it takes one pass instead of two.
"""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from formats.saved_model import TOP_FILES
from registry.entities import StoredMethod
from workers.methods.mixing import ComposedModel, Making, uniform
from xlora_engine.config import XLoraConfig
from xlora_engine.model import XLoraModel
from xlora_engine.saved.formats import read_model
from xlora_engine.saved.saved_model import SavedModel


class Uniform:
    """All experts at 1/n."""

    def make(self, making: Making) -> ComposedModel:
        """Put the experts on the base model; nothing is trained."""
        model = making.with_experts(XLoraConfig())
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.zero_()
        return _weighed(model)

    def save(self, composed: ComposedModel, folder: Path) -> StoredMethod:
        """Write the X-LoRA model whose head is zero."""
        composed.model.save_pretrained(folder)
        return StoredMethod(
            name="uniform", files=TOP_FILES, details={"weights": list(composed.weights or ())}
        )

    def load(self, folder: Path, base_model: PreTrainedModel) -> ComposedModel:
        """The experts on their base model."""
        return _weighed(XLoraModel.from_pretrained(folder, base_model))

    def read(self, folder: Path) -> SavedModel:
        """The X-LoRA model that was saved."""
        return read_model(folder)


def _weighed(model: XLoraModel) -> ComposedModel:
    return ComposedModel(model=model, weights=uniform(len(model.config.adapters)))
