"""Second stage of training a scaling head: the language-model loss, through the mixture pass alone."""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from xlora_engine.data.chat import EncodedExample, collate
from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import TrainingStopped
from xlora_engine.head_training.best_state import BestState, StageResult
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.head_training.settings import MixtureTraining
from xlora_engine.head_training.stage_checkpoints import StageCheckpoints, StageState
from xlora_engine.head_training.warm_start import StageStep, require_finite
from xlora_engine.mixture.head import seeded_dropout
from xlora_engine.mixture.mixture import Mixture

#: Tokens that must be saved to pay for a pass over the shared prefix alone, which reads all weights for a few
#: tokens. Both costs grow with the base model; measured to be about 53 on one thread of a CPU.
_TOKENS_THAT_PAY = 64

#: Held-out examples in one forward pass.
_HELD_OUT_BATCH = 16


def train_mixture(
    model: Mixture,
    encoded: Sequence[EncodedExample],
    examples: RoutedExamples,
    settings: MixtureTraining,
    *,
    pad_id: int,
    checkpoints: StageCheckpoints | None = None,
    on_step: Callable[[StageStep], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> StageResult:
    """Train the head (and the experts, where configured) on the loss of the answers' tokens.

    Hidden states come from `examples`, so each step is one forward and backward through the mixture pass.
    Stops early on held-out loss and restores the best state. With checkpoints, a second call with the same
    arguments goes on from the last one, to the same weights as an uninterrupted run.

    Raises:
        TrainingDiverged: a loss or gradient is not finite.
        TrainingStopped: `stop` answered true; a checkpoint was written first, if they are used.
    """
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimiser = torch.optim.AdamW(
        trained.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    draws = _draws(examples, settings)

    def held_out_loss() -> float:
        model.eval()  # the head's dropout would add noise to the comparison
        at_once = min(settings.micro_batch_size or _HELD_OUT_BATCH, _HELD_OUT_BATCH)
        with torch.no_grad():
            losses = [
                float(loss) for loss in _losses(model, encoded, examples, examples.held_out, at_once, pad_id)
            ]
        model.train()
        return sum(losses)

    if settings.steps == 0:
        only = held_out_loss()
        model.eval()
        return StageResult(steps=0, first_held_out_loss=only, best_held_out_loss=only, best_step=0)
    last = None if checkpoints is None else checkpoints.last()
    best = BestState(trained, held_out_loss() if last is None else 0.0)
    stage = StageState(trained, optimiser, best, model.device)
    step = 0
    with seeded_dropout(settings.seed, model.device):
        if last is not None:
            step = stage.load(last)
            deque(islice(draws, step), maxlen=0)  # the batches of the steps that are done
            model.train()
        while step < settings.steps and best.age < settings.patience:
            if stop():
                if checkpoints is not None:
                    checkpoints.write(step, stage.state(step))
                raise TrainingStopped(f"mixture training was stopped after {step} steps")
            step += 1
            loss, norm = _step(model, encoded, examples, next(draws), optimiser, settings, pad_id)
            evaluated = None
            if step % settings.evaluate_every == 0 or step == settings.steps:
                evaluated = held_out_loss()
                best.offer(evaluated, step)
            on_step(StageStep(step=step, loss=require_finite(loss, step), held_out_loss=evaluated))
            # Before the weights are kept: the next step's loss would show it too late.
            require_finite(norm, step, what="gradient norm")
            if checkpoints is not None and checkpoints.is_due:
                checkpoints.write(step, stage.state(step))
    if checkpoints is not None:
        checkpoints.write(step, stage.state(step))  # what follows this stage may be interrupted too
    model.eval()
    return best.restore(step)


def _step(
    model: Mixture,
    encoded: Sequence[EncodedExample],
    examples: RoutedExamples,
    indices: Sequence[int],
    optimiser: torch.optim.Optimizer,
    settings: MixtureTraining,
    pad_id: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """One optimiser step on these examples; their mean loss before it, and the norm of its gradients."""
    optimiser.zero_grad()
    loss = torch.zeros((), device=model.device)
    for part in _losses(model, encoded, examples, indices, settings.micro_batch_size or len(indices), pad_id):
        part.backward()
        loss += part.detach()
    trained = [value for group in optimiser.param_groups for value in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, settings.gradient_norm)
    optimiser.step()
    return loss, norm


def _losses(
    model: Mixture,
    encoded: Sequence[EncodedExample],
    examples: RoutedExamples,
    indices: Sequence[int],
    at_once: int,
    pad_id: int,
) -> Iterator[Float[Tensor, ""]]:
    """What each part of at most `at_once` examples adds to the mean loss of all, computed one by one."""
    tokens = sum(len(encoded[index].answer_ids) for index in indices)
    for start in range(0, len(indices), at_once):
        part = indices[start : start + at_once]
        share = sum(len(encoded[index].answer_ids) for index in part) / tokens
        yield share * mixture_loss(model, encoded, examples, part, pad_id=pad_id)


def mixture_loss(
    model: Mixture,
    encoded: Sequence[EncodedExample],
    examples: RoutedExamples,
    indices: Sequence[int],
    *,
    pad_id: int,
) -> Float[Tensor, ""]:
    """Mean loss (nats a token) of the answers of some examples, from their cached hidden states.

    Tokens that all examples begin with are run once, as one sequence, if that pays; gradients flow through
    it as through whole examples. The vocabulary is large: logits are computed only for the last positions,
    which hold the labels.
    """
    cache = _prefix_cache(model, encoded, examples, indices)
    shared = 0 if cache is None else examples.shared
    batch = collate([encoded[index].after(shared) for index in indices], pad_id=pad_id).to(model.device)
    hidden = upload(examples.hidden.left_padded(indices, after=shared), model.device)
    out = model.mixture_pass(
        model.head(hidden),
        input_ids=batch.input_ids,
        attention_mask=F.pad(batch.attention_mask, (shared, 0), value=1),
        position_ids=batch.position_ids + shared,
        labels=batch.labels[:, -batch.keep :],
        logits_to_keep=batch.keep,
        cache=cache,
        use_cache=cache is not None,
    )
    return cast("Tensor", out.loss)


def _prefix_cache(
    model: Mixture, encoded: Sequence[EncodedExample], examples: RoutedExamples, indices: Sequence[int]
) -> Cache | None:
    """Keys and values of the shared prefix for these examples, with their graph; None to run them whole."""
    cache = model.new_cache().mixture
    # With sliding windows, padding would push the prefix out; a recurrent state is written in place.
    grows = all(type(layer) is DynamicLayer for layer in cache.layers)
    pays = (len(indices) - 1) * examples.shared >= _TOKENS_THAT_PAY
    if not (pays and grows) or model.is_gradient_checkpointing:
        return None
    first = indices[0]
    hidden = upload(examples.hidden.left_padded([first])[:, : examples.shared], model.device)
    with model.context.using(model.head(hidden)):
        model.base.get_decoder()(
            input_ids=upload([encoded[first].token_ids[: examples.shared]], model.device),
            cache=cache,
            use_cache=True,
        )
    cache.batch_repeat_interleave(len(indices))
    return cache


def _draws(examples: RoutedExamples, settings: MixtureTraining) -> Iterator[list[int]]:
    """Batches with every expert's examples in turn, each expert's reshuffled when used up."""
    generator = random.Random(settings.seed)  # noqa: S311 - a data order, not a secret
    by_expert: dict[int, list[int]] = {}
    for index in examples.train:
        by_expert.setdefault(int(examples.experts[index]), []).append(index)
    queues: dict[int, list[int]] = {expert: [] for expert in by_expert}
    turn = 0
    while True:
        batch = []
        for _ in range(settings.batch_size):
            expert = sorted(by_expert)[turn % len(by_expert)]
            turn += 1
            if not queues[expert]:
                queues[expert] = generator.sample(by_expert[expert], len(by_expert[expert]))
            batch.append(queues[expert].pop())
        yield batch
