"""The gate of an expert, learnt on its own data, everything else frozen (PHATGOOSE, arXiv:2402.05859).

Below each module's update stands `σ(v · x)`; the vectors `v` start at zero and learn by the language-model
loss. No other expert is needed, so a gate belongs to its expert and is trained once.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from xlora_engine.config import XLoraConfig
from xlora_engine.data.chat import EncodedExample, collate
from xlora_engine.errors import ConfigInvalid, TrainingStopped
from xlora_engine.gate_training.settings import GateTraining
from xlora_engine.head_training.warm_start import require_finite
from xlora_engine.merging.gated_form import in_gated_form
from xlora_engine.mixture.mixture import Mixture
from xlora_engine.mixture.routers import Router
from xlora_engine.mixture.shared_down import SharedDown
from xlora_engine.sources.adapter_weights import Expert

#: An expert's gate: a vector for each module that it adapts.
Gate = dict[str, Tensor]


def train_gate(
    base: PreTrainedModel,
    expert: Expert,
    examples: Sequence[EncodedExample],
    settings: GateTraining,
    *,
    pad_id: int,
    on_step: Callable[[int, float], None] = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Gate:
    """Train the gate of one expert; the base model is as it was afterwards.

    Raises:
        ConfigInvalid: there are no examples, or the expert adapts embeddings.
        TrainingDiverged: a loss is not finite.
        TrainingStopped: `stop` answered true.
    """
    if not examples:
        raise ConfigInvalid("examples", "at least one", 0)
    zeros = {path: torch.zeros(update.A.shape[1]) for path, update in expert.updates.items()}
    model = Mixture(base, [in_gated_form(expert, zeros)], XLoraConfig())
    try:
        with _learning(model) as weights, model.routed(Router(kind="gate", top_k=1)):
            optimiser = torch.optim.Adam(weights, lr=settings.learning_rate)
            for step, batch in zip(range(1, settings.steps + 1), _batches(examples, settings), strict=False):
                if stop():
                    raise TrainingStopped(f"gate training was stopped after {step - 1} steps")
                optimiser.zero_grad()
                loss = _loss(model, batch, pad_id)
                loss.backward()
                optimiser.step()
                on_step(step, require_finite(loss, step))
        return {path: layer.update_of(0)[0][0].detach().cpu().clone() for path, layer in model.layers.items()}
    finally:
        model.unload()


@contextmanager
def _learning(model: Mixture) -> Iterator[list[nn.Parameter]]:
    """The stacks of A, of which the gates alone get a gradient."""
    stacks = list(dict.fromkeys(layer.down for layer in model.layers.values()))
    for stack in stacks:
        stack.weight.requires_grad_(True)
    handles = [stack.weight.register_hook(_of_gates(stack)) for stack in stacks]
    try:
        yield [stack.weight for stack in stacks]
    finally:
        for handle in handles:
            handle.remove()


def _of_gates(stack: SharedDown) -> Callable[[Tensor], Tensor]:
    """Keeps the gradient of each update's first row."""
    starts = torch.tensor([0, *stack.update_ranks[:-1]]).cumsum(0)
    kept = torch.zeros(stack.ranks, 1)
    kept[starts] = 1
    kept = kept.to(stack.weight)
    return lambda gradient: gradient * kept


def _loss(model: Mixture, examples: Sequence[EncodedExample], pad_id: int) -> Float[Tensor, ""]:
    """Mean loss (nats a token) of the answers."""
    batch = collate(examples, pad_id=pad_id).to(model.device)
    out = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        labels=batch.labels[:, -batch.keep :],
        logits_to_keep=batch.keep,
    )
    return cast("Tensor", out.loss)


def _batches(
    examples: Sequence[EncodedExample], settings: GateTraining
) -> Iterator[Sequence[EncodedExample]]:
    """Batches without end; the examples are reshuffled when they are used up."""
    generator = random.Random(settings.seed)  # noqa: S311 - a data order, not a secret
    left: list[EncodedExample] = []
    while True:
        while len(left) < settings.batch_size:
            left += generator.sample(list(examples), len(examples))
        yield left[: settings.batch_size]
        del left[: settings.batch_size]
