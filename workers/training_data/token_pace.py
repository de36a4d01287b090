"""How fast a training goes through its data."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class TokenPace:
    """Tokens per second between steps, by the mean length of what is drawn."""

    tokens_per_step: float
    now: Callable[[], float] = time.monotonic
    _step: int | None = None
    _at: float = 0.0

    def after_step(self, step: int) -> dict[str, float]:
        """The pace since the step before, as a metric; nothing after the first, whose start is not known."""
        step_before, at_before = self._step, self._at
        self._step, self._at = step, self.now()
        if step_before is None or self._at <= at_before:
            return {}
        tokens = (step - step_before) * self.tokens_per_step
        return {"tokens_per_second": round(tokens / (self._at - at_before), 1)}
