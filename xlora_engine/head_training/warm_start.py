"""First stage of training a scaling head: which domain does a token come from? No language-model pass.

The paper trains the head on the language-model loss alone, from a random start. The best expert for a token
mostly depends on its domain, which can be learnt from cached hidden states in seconds; mixture training then
has little left to do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from xlora_engine.devices.host_copy import upload
from xlora_engine.errors import TrainingDiverged, TrainingStopped
from xlora_engine.head_training.best_state import BestState, StageResult
from xlora_engine.head_training.routed_examples import RoutedExamples, RoutedTokens
from xlora_engine.head_training.settings import WarmStart
from xlora_engine.mixture.head import ScalingHead, seeded_dropout

#: Tokens that all examples begin with say nothing of the domain, which takes few examples to learn: one in
#: this many includes them.
EXAMPLES_PER_PREFIX = 16

#: Held-out tokens that pass the head at once.
_HELD_OUT_TOKENS = 2**14


@dataclass(frozen=True, kw_only=True)
class StageStep:
    """The values of one step of a stage."""

    step: int
    loss: float
    #: Loss on held-out examples, if this step evaluated it.
    held_out_loss: float | None = None


def warm_start(
    head: ScalingHead,
    examples: RoutedExamples,
    settings: WarmStart,
    *,
    on_step: Callable[[StageStep], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> StageResult:
    """Train the head to name the expert that each token needs: cross-entropy of its logits against the label.

    The target is the same for every layer, so one layer's gate is learnt and repeated for all, which
    divides the cost by the number of layers. What is kept is a running average of the weights
    (arXiv:1803.05407), evaluated on held-out examples: training stops early and restores the best.

    Raises:
        TrainingDiverged: a loss is not finite.
        TrainingStopped: `stop` answered true.
    """
    device = next(head.parameters()).device
    single = head.single(seed=settings.seed)
    tokens = examples.tokens(examples.train, with_prefix=EXAMPLES_PER_PREFIX)
    held_out = examples.tokens(examples.held_out)
    noise = tokens.spread() * settings.hidden_noise
    draw = torch.Generator().manual_seed(settings.seed)
    averaged = AveragedModel(single, avg_fn=_running_average(settings.averaging))
    kept = cast("ScalingHead", averaged.module).eval()
    optimiser = torch.optim.AdamW(
        single.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )

    best = BestState(dict(kept.named_parameters()), _mean_loss(kept, held_out, device))
    step = 0
    with seeded_dropout(settings.seed, device):
        while step < settings.steps and best.age < settings.patience:
            if stop():
                raise TrainingStopped(f"the routing warm start was stopped after {step} steps")
            step += 1
            picked = torch.randint(len(tokens), (settings.tokens_per_step,), generator=draw)
            noisy = torch.randn(len(picked), len(noise), generator=draw).mul_(noise)
            noisy.add_(tokens.hidden(picked))
            loss = routing_loss(single, upload(noisy, device), upload(tokens.experts[picked], device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            averaged.update_parameters(single)
            evaluated = None
            if step % settings.evaluate_every == 0 or step == settings.steps:
                evaluated = _mean_loss(kept, held_out, device)
                best.offer(evaluated, step)
            on_step(StageStep(step=step, loss=require_finite(loss, step), held_out_loss=evaluated))
    result = best.restore(step)
    head.repeat(kept)
    return result


def _running_average(averaging: float) -> Callable[[Tensor, Tensor, int | Tensor], Tensor]:
    """An exponential average that is short at first, so that a few steps soon forget the beginning."""

    def average(kept: Tensor, new: Tensor, count: int | Tensor) -> Tensor:
        share = min(averaging, (1 + int(count)) / (10 + int(count)))
        return kept.lerp(new, 1 - share)

    return average


@torch.no_grad()
def _mean_loss(head: ScalingHead, tokens: RoutedTokens, device: torch.device) -> float:
    mean = torch.zeros((), device=device)
    for part in tokens.parts(_HELD_OUT_TOKENS):
        loss = routing_loss(head, upload(part.hidden(), device), upload(part.experts, device))
        mean += len(part) / len(tokens) * loss
    return float(mean)


def routing_loss(
    head: ScalingHead,
    hidden: Float[Tensor, "token hidden"],
    experts: Int[Tensor, " token"] | Float[Tensor, "token expert"],
) -> Float[Tensor, ""]:
    """Cross-entropy (nats) of the head's logits, mean over tokens and layers.

    Against each token's expert, or each expert's share of it; expert by expert where gates are sigmoids.
    """
    logits = head.logits(hidden.float()[None])[0]
    if head.config.sigmoid_floor is not None:
        shares = experts if experts.is_floating_point() else F.one_hot(experts, logits.shape[-1]).float()
        return F.binary_cross_entropy_with_logits(logits, shares[:, None].expand_as(logits))
    return F.cross_entropy(logits.flatten(0, 1), experts.repeat_interleave(logits.shape[1], dim=0))


def require_finite(loss: Tensor, step: int, *, what: str = "loss") -> float:
    """The loss, or another value, as a number.

    Raises:
        TrainingDiverged: it is NaN or infinite.
    """
    value = float(loss.detach())
    if value != value or value in (float("inf"), float("-inf")):
        raise TrainingDiverged(f"the {what} of step {step} is {value}; lower the learning rate")
    return value
