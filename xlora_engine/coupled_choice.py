"""Choosing tokens from scores, twice alike for one step: once to guess, once for good."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class CoupledChoice:
    """Chooses tokens as `GenerationMixin` does: the best, or one drawn from the softmax of the scores.

    `torch.multinomial` draws exponential noise and takes the greatest quotient. Drawn here, once for
    each step, the same noise serves the guess and the choice: where scores agree, so do the tokens,
    and they are those that `torch.multinomial` would have drawn from the same random state.
    """

    def __init__(self, *, samples: bool) -> None:
        self._samples = samples
        self._noise: Tensor | None = None

    def __call__(self, scores: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        """The tokens of this step."""
        if not self._samples:
            return scores.argmax(-1)
        probabilities = scores.softmax(-1)
        if self._noise is None:
            self._noise = torch.empty_like(probabilities).exponential_(1)
        return (probabilities / self._noise).argmax(-1)

    def next_step(self) -> None:
        """From now on tokens are those of the next step."""
        self._noise = None
