"""Training only a few experts' gates, after a mixture was changed: everything else stays bit for bit."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from xlora_engine.errors import ConfigInvalid
from xlora_engine.mixture.mixture import Mixture


@contextmanager
def training_only(model: Mixture, experts: Sequence[str]) -> Iterator[list[nn.Parameter]]:
    """Inside, only these experts' rows of the head's last layer are trained; yields the parameters with them.

    Other rows of the same parameters get no gradient, and changes that an optimiser still makes to them
    (weight decay, momentum) are undone after each step. The head's other layers and the experts themselves
    are frozen meanwhile, so create the optimiser inside.

    Raises:
        ConfigInvalid: there is no such expert.
    """
    for name in experts:
        if name not in model.config.adapters:
            raise ConfigInvalid("experts", f"some of {model.config.adapters}", name)
    learning = torch.tensor([name in experts for name in model.config.adapters], device=model.device)
    rows = learning.repeat(model.head.layer_count)
    last = list(model.head.layers[-1].parameters())
    with ExitStack() as undo:
        for parameter in model.parameters():
            undo.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
        for parameter in last:
            parameter.requires_grad_(True)
            _hold_still(parameter, ~rows, undo)
        yield last


def _hold_still(parameter: nn.Parameter, rows: Bool[Tensor, " outputs"], undo: ExitStack) -> None:
    kept = parameter.detach()[rows].clone()

    def without_gradient(gradient: Tensor) -> Tensor:
        masked = gradient.clone()
        masked[rows] = 0
        return masked

    def put_back(*_: object) -> None:
        with torch.no_grad():
            parameter[rows] = kept

    undo.callback(parameter.register_hook(without_gradient).remove)
    undo.callback(register_optimizer_step_post_hook(put_back).remove)
