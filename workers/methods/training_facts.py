"""What a report says of how a head was trained: facts, and the sentences that people read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from xlora_engine.head_training.best_state import StageResult
from xlora_engine.head_training.expert_labels import SEVERAL
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.mixture.head import ScalingHead

#: A held-out loss that falls by less than this share in the last look at it has stopped falling.
_STOPPED_FALLING = 0.01


def training_facts(
    head: ScalingHead, examples: RoutedExamples, mixture: StageResult, *, experts: Sequence[str]
) -> dict[str, Any]:
    """As JSON types."""
    counts = Counter(int(expert) for expert in examples.experts)
    by_expert = {name: counts[index] for index, name in enumerate(experts)}
    spread = layer_spread(head, examples)
    facts: dict[str, Any] = {
        "examples": {**by_expert, "of several": counts[SEVERAL]},
        "layer_spread": spread,
        "mixture": {
            "steps": mixture.steps,
            "best_step": mixture.best_step,
            "first_held_out_loss": mixture.first_held_out_loss,
            "best_held_out_loss": mixture.best_held_out_loss,
            "last_fall": mixture.last_fall,
        },
    }
    return {
        **facts,
        "sentences": [_of_examples(facts["examples"]), _of_layers(spread), *_of_mixture(mixture)],
    }


@torch.no_grad()
def layer_spread(head: ScalingHead, examples: RoutedExamples) -> float:
    """How far layers differ: the standard deviation over layers of a gate, mean over tokens and experts.

    Of the held-out examples' own tokens; 0 if one gate is repeated in all layers.
    """
    device = next(head.parameters()).device
    total, count = 0.0, 0
    for index in examples.held_out:
        hidden = examples.hidden.of(index)[examples.shared :]
        scalings = head(hidden[None].float().to(device))
        total += float(scalings.std(2, correction=0).sum())
        count += scalings[:, :, 0].numel()
    return total / max(1, count)


def _of_examples(examples: Mapping[str, int]) -> str:
    counted = ", ".join(f"{count} {name}" for name, count in examples.items())
    unused = [name for name, count in examples.items() if count == 0 and name != "of several"]
    rest = "" if not unused else f"; nothing says when {', '.join(unused)} would be of use"
    return f"trained on examples: {counted}{rest}"


def _of_layers(spread: float) -> str:
    return f"layers differ by {spread:.3f} (standard deviation of a token's gates over layers)"


def _of_mixture(result: StageResult) -> list[str]:
    if result.steps == 0:
        return []
    said = (
        f"mixture training: held-out loss {result.first_held_out_loss:.3f} to {result.best_held_out_loss:.3f}"
        f" in {result.steps} steps"
    )
    if result.best_step < result.steps:
        return [f"{said}; the best was step {result.best_step}: more time would bring nothing"]
    if result.last_fall < _STOPPED_FALLING:
        return [f"{said}; it has stopped falling: more time would bring little"]
    return [f"{said}; it still fell by {result.last_fall:.0%}: more time (--budget) would bring more"]
