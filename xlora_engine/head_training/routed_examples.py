"""Rows whose expert is known, and the tokens of some of them, read where they lie: it may be on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlora_engine.head_training.hidden_states import HiddenStates

#: Tokens brought into memory at once where all are looked at.
_AT_ONCE = 2**16


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedTokens:
    """Tokens out of many rows, with the expert that each belongs to."""

    values: Float[Tensor, "position hidden"]
    #: Where in `values` each token is.
    positions: Int[Tensor, " token"]
    experts: Int[Tensor, " token"]

    def __len__(self) -> int:
        return len(self.positions)

    def hidden(self, picked: Int[Tensor, " pick"] | slice = slice(None)) -> Float[Tensor, "pick hidden"]:
        """The hidden states of some of them, or of all."""
        return self.values[self.positions[picked]]

    def parts(self, at_once: int = _AT_ONCE) -> Iterator["RoutedTokens"]:
        """The same tokens, so many at a time."""
        for positions, experts in zip(
            self.positions.split(at_once), self.experts.split(at_once), strict=True
        ):
            yield RoutedTokens(values=self.values, positions=positions, experts=experts)

    def spread(self, at_once: int = _AT_ONCE) -> Float[Tensor, " hidden"]:
        """The standard deviation of each dimension."""
        shares, means, variances = [], [], []
        for part in self.parts(at_once):
            variance, mean = torch.var_mean(part.hidden().float(), dim=0, correction=0)
            shares.append(len(part) / len(self))
            means.append(mean)
            variances.append(variance)
        share, mean = torch.tensor(shares)[:, None], torch.stack(means)
        overall = (share * mean).sum(0)
        return (share * (torch.stack(variances) + (mean - overall) ** 2)).sum(0).sqrt()


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedRows:
    """Rows with the expert each belongs to, the last of them held out."""

    hidden: HiddenStates
    #: Position of each row's expert.
    experts: Int[Tensor, " row"]
    train: tuple[int, ...]
    held_out: tuple[int, ...]
    #: Tokens with which all rows begin.
    shared: int = 0

    def tokens(self, indices: Sequence[int], *, with_prefix: int | None = None) -> RoutedTokens:
        """The rows' own tokens; of one row in so many, the shared ones too."""
        bounds = self.hidden.starts.tolist()
        positions = [
            torch.arange(
                bounds[index] + (0 if with_prefix and place % with_prefix == 0 else self.shared),
                bounds[index + 1],
            )
            for place, index in enumerate(indices)
        ]
        lengths = torch.tensor([len(position) for position in positions])
        return RoutedTokens(
            values=self.hidden.values,
            positions=torch.cat(positions),
            experts=self.experts[list(indices)].repeat_interleave(lengths),
        )
