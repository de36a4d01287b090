"""Examples whose expert is known, and the tokens of some of them, which may be read from disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xlora_engine.head_training.hidden_states import HiddenStates

#: Tokens in memory at once when all are read.
_AT_ONCE = 2**16


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedTokens:
    """Tokens of many examples, with the expert that each belongs to."""

    values: Float[Tensor, "position hidden"]
    #: Index of each token in `values`.
    positions: Int[Tensor, " token"]
    experts: Int[Tensor, " token"]

    def __len__(self) -> int:
        return len(self.positions)

    def hidden(self, picked: Int[Tensor, " pick"] | slice = slice(None)) -> Float[Tensor, "pick hidden"]:
        """The hidden states of some of them, or of all."""
        return self.values[self.positions[picked]]

    def parts(self, at_once: int = _AT_ONCE) -> Iterator["RoutedTokens"]:
        """The same tokens, `at_once` at a time."""
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
class RoutedExamples:
    """Examples with the expert each belongs to, some of them held out."""

    hidden: HiddenStates
    #: Index of each example's expert.
    experts: Int[Tensor, " example"]
    train: tuple[int, ...]
    held_out: tuple[int, ...]
    #: Number of tokens that all examples begin with.
    shared: int = 0

    def tokens(self, indices: Sequence[int], *, with_prefix: int | None = None) -> RoutedTokens:
        """The examples' own tokens; the shared ones too for one of every `with_prefix` examples."""
        bounds = self.hidden.starts.tolist()
        positions = [
            torch.arange(
                bounds[index] + (0 if with_prefix and number % with_prefix == 0 else self.shared),
                bounds[index + 1],
            )
            for number, index in enumerate(indices)
        ]
        lengths = torch.tensor([len(position) for position in positions])
        return RoutedTokens(
            values=self.hidden.values,
            positions=torch.cat(positions),
            experts=self.experts[list(indices)].repeat_interleave(lengths),
        )
