"""What the warm start learnt, kept in every layer while mixture training changes the rest.

Examples of one expert are often those that the expert itself was trained on: it knows them by heart, so that
their language-model loss hardly says any more which gate they need. Their labels do, and cost no pass of the
base model.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from xlora_engine.devices.host_copy import upload
from xlora_engine.head_training.routed_examples import RoutedExamples, RoutedTokens
from xlora_engine.head_training.settings import MixtureTraining
from xlora_engine.head_training.warm_start import EXAMPLES_PER_PREFIX, routing_loss
from xlora_engine.mixture.head import ScalingHead

#: Seeds of two steps of one run differ by 1, those of two runs by much more.
_STEPS_OF_A_RUN = 2**32


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptRouting:
    """Tokens whose expert is known, and how much their routing loss counts."""

    tokens: RoutedTokens
    noise: Float[Tensor, " hidden"]
    settings: MixtureTraining

    @classmethod
    def of(cls, examples: RoutedExamples, settings: MixtureTraining) -> Self | None:
        """That of the training examples that belong to one expert; None if it does not count."""
        labelled = examples.labelled(examples.train)
        if not labelled or settings.routing_weight == 0:
            return None
        tokens = examples.tokens(labelled, with_prefix=EXAMPLES_PER_PREFIX)
        return cls(tokens=tokens, noise=tokens.spread() * settings.hidden_noise, settings=settings)

    def loss(self, head: ScalingHead, step: int) -> Float[Tensor, ""]:
        """What is added to the loss of this step: the routing loss of a few tokens in all layers."""
        draw = torch.Generator().manual_seed(self.settings.seed * _STEPS_OF_A_RUN + step)
        picked = torch.randint(len(self.tokens), (self.settings.routing_tokens,), generator=draw)
        noisy = torch.randn(len(picked), len(self.noise), generator=draw).mul_(self.noise)
        noisy.add_(self.tokens.hidden(picked))
        device = next(head.parameters()).device
        experts = upload(self.tokens.experts[picked], device)
        return self.settings.routing_weight * routing_loss(head, upload(noisy, device), experts)
