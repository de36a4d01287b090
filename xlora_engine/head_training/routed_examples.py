"""Examples with what is known of the experts they need, and their tokens, which may be read from disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from xlora_engine.head_training.expert_labels import SEVERAL
from xlora_engine.head_training.hidden_states import HiddenStates

#: Tokens in memory at once when all are read.
_AT_ONCE = 2**16


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedTokens:
    """Tokens of many examples, with the expert that each belongs to, or with each expert's share of it."""

    values: Float[Tensor, "position hidden"]
    #: Index of each token in `values`.
    positions: Int[Tensor, " token"]
    experts: Int[Tensor, " token"] | Float[Tensor, "token expert"]

    def __len__(self) -> int:
        return len(self.positions)

    def hidden(self, picked: Int[Tensor, " pick"] | slice = slice(None)) -> Float[Tensor, "pick hidden"]:
        """The hidden states of some of them, or of all."""
        return self.values[self.positions[picked]]

    def parts(self, at_once: int = _AT_ONCE) -> Iterator["RoutedTokens"]:
        """The same tokens, `at_once` at a time."""
        for start in range(0, len(self), at_once):
            part = slice(start, start + at_once)
            yield RoutedTokens(values=self.values, positions=self.positions[part], experts=self.experts[part])

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
    #: Index of each example's expert, or `SEVERAL`.
    experts: Int[Tensor, " example"]
    train: tuple[int, ...]
    held_out: tuple[int, ...]
    #: Number of tokens that all examples begin with.
    shared: int = 0
    #: Each expert's share of the tokens of an example of several; zeros where nothing is known of a token.
    shares: Mapping[int, Float[Tensor, "token expert"]] = field(default_factory=dict)

    def tokens(self, indices: Sequence[int], *, with_prefix: int | None = None) -> RoutedTokens:
        """The examples' own tokens; the shared ones too for one of every `with_prefix` examples.

        Tokens of which nothing is known are left out.
        """
        bounds = self.hidden.starts.tolist()
        positions = [
            torch.arange(
                bounds[index] + (0 if with_prefix and number % with_prefix == 0 else self.shared),
                bounds[index + 1],
            )
            for number, index in enumerate(indices)
        ]
        if not self.shares:
            lengths = torch.tensor([len(position) for position in positions])
            return RoutedTokens(
                values=self.hidden.values,
                positions=torch.cat(positions),
                experts=self.experts[list(indices)].repeat_interleave(lengths),
            )
        shares = torch.cat(
            [self._shares(index, len(position)) for index, position in zip(indices, positions, strict=True)]
        )
        known = shares.sum(1) > 0
        return RoutedTokens(
            values=self.hidden.values, positions=torch.cat(positions)[known], experts=shares[known]
        )

    def labelled(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Those that belong to one expert."""
        return tuple(index for index in indices if int(self.experts[index]) != SEVERAL)

    def _shares(self, index: int, tokens: int) -> Float[Tensor, "token expert"]:
        """Of the last tokens of an example."""
        if index in self.shares:
            return self.shares[index][-tokens:]
        experts = next(iter(self.shares.values())).shape[1]
        return F.one_hot(self.experts[index], experts).float().expand(tokens, -1)
