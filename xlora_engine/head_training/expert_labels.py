"""Labels for examples whose domain is not known, from the losses of the experts themselves.

The experts take turns in writing an answer: a hidden Markov model whose states are the experts, whose
emission is each expert's probability of the token, and whose state seldom changes. Its posterior
(forward-backward algorithm, Rabiner 1989, doi:10.1109/5.18626) says which expert a token needs, better than
single losses do: most tokens are as easy for several experts, and belong where their neighbours do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

#: An answer's next token needs another expert with this probability: one of two halves has about ten tokens.
SWITCH_PROBABILITY = 0.05

#: An expert with this share of an answer, averaged over its tokens, is taken for the domain of the example.
_WHOLE_SHARE = 0.9

#: The label of an example that needs several experts.
SEVERAL = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertLabel:
    """What the experts' losses say of one example."""

    #: The expert that explains the whole answer, or `SEVERAL`.
    expert: int
    #: The probability that each token of the answer needs each expert.
    shares: Float[Tensor, "answer expert"]
    #: The experts' loss (nats, all tokens) where each token is weighed by these.
    loss: float


def label_by_losses(
    losses: Float[Tensor, "answer expert"], *, switch_probability: float = SWITCH_PROBABILITY
) -> ExpertLabel:
    """Which expert each token of an answer needs, from every expert's loss (nats) on it."""
    shares = posterior(losses, switch_probability=switch_probability)
    whole, expert = shares.mean(0).max(0)
    return ExpertLabel(
        expert=int(expert) if float(whole) >= _WHOLE_SHARE else SEVERAL,
        shares=shares,
        loss=float((shares * losses).sum()),
    )


def posterior(
    losses: Float[Tensor, "answer expert"], *, switch_probability: float
) -> Float[Tensor, "answer expert"]:
    """The probability that each token was written by each expert, if writers seldom change."""
    tokens, experts = losses.shape
    if experts == 1:
        return torch.ones_like(losses)
    emitted = -losses.double()
    change = torch.full((experts, experts), switch_probability / (experts - 1), dtype=torch.double)
    change = change.fill_diagonal_(1 - switch_probability).log()
    before, after = [emitted[0]], [torch.zeros_like(emitted[0])]
    for token in range(1, tokens):
        before.append(emitted[token] + (before[-1][:, None] + change).logsumexp(0))
        following = emitted[tokens - token] + after[-1]
        after.append((change + following).logsumexp(1))
    return (torch.stack(before) + torch.stack(after[::-1])).softmax(1).to(losses.dtype)


def token_shares(label: ExpertLabel, *, tokens: int) -> Float[Tensor, "token expert"]:
    """Targets for the gates of an example's tokens; a token of which nothing is known has zeros.

    The gate of a token decides on the one that it predicts: a position's target is that of the next token.
    What a question's tokens need, of an answer by several experts, is not said by the answer.
    """
    answer, experts = label.shares.shape
    shares = torch.zeros(tokens, experts)
    shares[-answer - 1 : -1] = label.shares
    shares[-1] = label.shares[-1]
    return shares


def mean_loss(labels: Sequence[ExpertLabel]) -> float:
    """Mean loss (nats a token) of all answers, each token weighed by the experts that it needs."""
    return sum(label.loss for label in labels) / sum(len(label.shares) for label in labels)
