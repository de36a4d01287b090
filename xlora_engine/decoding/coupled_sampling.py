"""Choosing tokens from scores, twice alike for one place: once to guess, once for good."""

from collections import deque

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
        #: Of this step and those after it: the random state it was drawn from, and the noise.
        self._noise: deque[tuple[Tensor, Tensor]] = deque()

    def __call__(self, scores: Float[Tensor, "batch vocab"], *, ahead: int = 0) -> Int[Tensor, " batch"]:
        """The tokens of this step, or of one so many steps ahead."""
        if not self._samples:
            return scores.argmax(-1)
        probabilities = scores.softmax(-1)
        while len(self._noise) <= ahead:
            state = _random_state(probabilities.device)
            self._noise.append((state, torch.empty_like(probabilities).exponential_(1)))
        return (probabilities / self._noise[ahead][1]).argmax(-1)

    def next_step(self) -> None:
        """From now on tokens are those of the next step."""
        if self._noise:
            self._noise.popleft()

    def close(self) -> None:
        """Leave the random state as if nothing had been drawn ahead."""
        if self._noise:
            state, noise = self._noise[0]
            _restore_random_state(state, noise.device)
            self._noise.clear()


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _restore_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
