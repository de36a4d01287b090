"""The memory that training an adapter takes, computed from the base model's skeleton without any weights.

The model's own code runs once on torch's meta device, where tensors have shapes and no content; what autograd
would keep for the backward pass is counted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedConfig

from xlora_engine.adapter_training.lora_injection import injected
from xlora_engine.sources.language_model import language_model_of

#: Of each trained number: itself, its gradient and AdamW's two moments, in float32.
_TRAINED_BYTES = 4 * 4
#: Logits in float32, for the loss and for its gradient, beside what autograd keeps.
_LOGITS_BYTES = 2 * 4


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes that training takes at its peak, by what takes them; a library's own buffers come on top."""

    base: int
    #: With gradients and the optimiser's state.
    adapter: int
    #: Kept from the forward for the backward pass, and the logits.
    activations: int
    trained_parameters: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.base + self.adapter + self.activations


def training_memory(
    config: PreTrainedConfig,
    lora: LoraConfig,
    *,
    dtype: torch.dtype,
    sequences: int,
    tokens: int,
    labelled: int,
) -> TrainingMemory:
    """What a step of some sequences takes, each of `tokens` tokens, the last `labelled` of them labelled.

    Raises:
        ConfigInvalid: a target module that the base model does not have.
        BaseUnsupported: it is no causal language model.
    """
    model_class, text_config = language_model_of(config)
    with torch.device("meta"):
        skeleton = model_class(text_config)
    torch.nn.Module.to(skeleton, dtype)
    skeleton.requires_grad_(False)
    base = sum(parameter.nbytes for parameter in skeleton.parameters())
    with torch.device("meta"), injected(skeleton, lora, seed=0) as model:
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        model.train()
        with _kept(own) as kept:
            ids = torch.zeros(sequences, tokens, dtype=torch.long)
            # With all four dimensions, or the library would look at its values.
            mask = torch.ones(sequences, 1, tokens, tokens, dtype=torch.bool)
            logits: Tensor = model(
                input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=labelled
            ).logits
    return TrainingMemory(
        base=base,
        adapter=trained * _TRAINED_BYTES,
        activations=sum(kept.values()) + logits.numel() * _LOGITS_BYTES,
        trained_parameters=trained,
    )


@contextmanager
def _kept(own: set[int]) -> Iterator[dict[int, int]]:
    """A block in which autograd's tensors are counted, each storage once; those of parameters are not."""
    storages: dict[int, int] = {}
    alive = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            alive.append(tensor)  # else its number could be another's
            storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield storages
