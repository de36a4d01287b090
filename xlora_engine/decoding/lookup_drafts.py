"""Drafts of the next tokens: those that followed the same tokens before (prompt lookup decoding). Pure."""

from collections.abc import Callable, Sequence
from typing import Protocol

#: How many of the last tokens must match, the most specific first.
NGRAMS = (4, 3, 2)


class Drafts(Protocol):
    """Drafts tokens; their quality decides how fast generation is, and nothing else."""

    def append(self, token: int) -> None:
        """Add one known token."""

    def following(self, ahead: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may follow the known ones and, after those, `ahead`."""


#: Makes the drafts for one sequence from the tokens of its prompt.
MakeDrafts = Callable[[Sequence[int]], Drafts]


class LookupDrafts:
    """The tokens that followed the last few tokens at their latest occurrence, in the prompt or the output.

    `transformers` takes the first occurrence (`PromptLookupCandidateGenerator`), compares the whole prompt
    at each step and waits for the GPU at each comparison; this one keeps an index on the host.
    """

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        #: Index of the token that followed these most recently.
        self._after: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Add one known token."""
        for size in NGRAMS:
            if len(self._tokens) >= size:
                self._after[tuple(self._tokens[-size:])] = len(self._tokens)
        self._tokens.append(token)

    def following(self, ahead: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens; none if the last tokens have not occurred before."""
        known = self._tokens
        tail = [*known[-NGRAMS[0] :], *ahead][-NGRAMS[0] :]
        for size in NGRAMS:
            start = self._after.get(tuple(tail[-size:])) if len(tail) >= size else None
            if start is not None:
                # A repetition with a short period is continued past the end of the known tokens.
                beyond = list(ahead)
                for index in range(start, start + most):
                    beyond.append(known[index] if index < len(known) else beyond[index - len(known)])
                return beyond[len(ahead) :]
        return []
