"""Early stopping of a stage of head training: the weights with the lowest held-out loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """How a stage ended; the trained weights are those with the lowest held-out loss."""

    steps: int
    first_held_out_loss: float
    best_held_out_loss: float
    best_step: int
    #: By which share of itself the loss fell in its last improvement.
    last_fall: float = 0.0


class BestState:
    """Keeps a copy of the trained weights with the lowest held-out loss."""

    def __init__(self, trained: Mapping[str, Tensor], loss: float) -> None:
        self.trained = trained
        self.first = self.loss = loss
        self.step = 0
        #: By which share of itself the loss fell in its last improvement.
        self.fall = 0.0
        #: Evaluations since the last improvement.
        self.age = 0
        self._state = self._copy()

    def offer(self, loss: float, step: int) -> None:
        """Keep the present weights if their loss is the lowest so far."""
        self.age += 1
        if loss < self.loss:
            self.fall = (self.loss - loss) / self.loss
            self.loss, self.step, self.age = loss, step, 0
            self._state = self._copy()

    def restore(self, steps: int) -> StageResult:
        """Restore the best weights; returns the stage's result."""
        with torch.no_grad():
            for name, value in self._state.items():
                self.trained[name].copy_(value)
        return StageResult(
            steps=steps,
            first_held_out_loss=self.first,
            best_held_out_loss=self.loss,
            best_step=self.step,
            last_fall=self.fall,
        )

    def state(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {
            "first": self.first,
            "loss": self.loss,
            "step": self.step,
            "age": self.age,
            "fall": self.fall,
            "best": self._state,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a saved state."""
        self.first, self.loss = state["first"], state["loss"]
        self.step, self.age, self.fall = state["step"], state["age"], state["fall"]
        self._state = {name: value.to(self.trained[name].device) for name, value in state["best"].items()}

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.trained.items()}
