"""Coupled sampling: guess and choice of a step use the same noise, so that equal scores give equal tokens."""

from collections import deque

import torch
from jaxtyping import Float, Int
from torch import Tensor


class CoupledSampling:
    """Chooses tokens as `GenerationMixin` does: the most likely, or one drawn from the softmax of the scores.

    `torch.multinomial` draws exponential noise and takes the greatest quotient. Here it is drawn once for
    each step, and the same noise serves the guess and the choice: where scores agree, so do the tokens,
    and they are those that `torch.multinomial` would have drawn from the same random state.
    """

    def __init__(self, *, samples: bool) -> None:
        self._samples = samples
        #: For this step and the following ones: the random state before the draw, and the noise.
        self._noise: deque[tuple[Tensor, Tensor]] = deque()

    def __call__(self, scores: Float[Tensor, "batch vocab"], *, ahead: int = 0) -> Int[Tensor, " batch"]:
        """The tokens of this step, or of the one `ahead` steps later."""
        if not self._samples:
            return scores.argmax(-1)
        probabilities = scores.softmax(-1)
        while len(self._noise) <= ahead:
            state = _random_state(probabilities.device)
            self._noise.append((state, torch.empty_like(probabilities).exponential_(1)))
        return (probabilities / self._noise[ahead][1]).argmax(-1)

    def next_step(self) -> None:
        """Go on to the next step."""
        if self._noise:
            self._noise.popleft()

    def close(self) -> None:
        """Restore the random state to what it is without drawing ahead."""
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
