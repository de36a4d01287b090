"""How far a stage has come, by steps or by the clock, and the learning rate that goes with it."""

import math
import time
from dataclasses import dataclass, field

from xlora_engine.head_training.settings import MixtureTraining


@dataclass(frozen=True, kw_only=True)
class Horizon:
    """The end of a stage: a number of steps, or a time."""

    settings: MixtureTraining
    #: Seconds that earlier attempts took.
    spent_s: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds of all attempts."""
        return self.spent_s + time.monotonic() - self.started

    def progress(self, steps: int) -> float:
        """The share of the stage that is over after so many steps; 1 or more ends it."""
        if self.settings.budget_s is not None:
            return self.elapsed_s / self.settings.budget_s
        return steps / self.settings.steps

    def learning_rate(self, steps: int) -> float:
        """Of the step after so many: it rises over the first ones and falls to nothing, like half a cosine.

        (arXiv:1608.03983, without restarts.)
        """
        rise = min(1.0, (steps + 1) / self.settings.warmup_steps) if self.settings.warmup_steps else 1.0
        fall = (1 + math.cos(math.pi * min(1.0, self.progress(steps)))) / 2
        return self.settings.learning_rate * rise * fall
