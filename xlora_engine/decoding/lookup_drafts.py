"""Drafts of what comes next: what followed the same tokens before (prompt lookup decoding). Pure."""

from collections.abc import Callable, Sequence
from typing import Protocol

#: How many of the last tokens must be alike, the most telling first.
NGRAMS = (4, 3, 2)


class Drafts(Protocol):
    """Whatever drafts tokens; how good they are decides how fast generation is, and nothing else."""

    def append(self, token: int) -> None:
        """Take one more token as known."""

    def following(self, ahead: Sequence[int], most: int) -> list[int]:
        """At most so many tokens that may follow the known ones and, after those, `ahead`."""


#: Makes the drafts for one row from the tokens of its prompt.
MakeDrafts = Callable[[Sequence[int]], Drafts]


class LookupDrafts:
    """What followed the last few tokens the last time they stood so, in the prompt or in the output.

    `transformers` has the same with the first time (`PromptLookupCandidateGenerator`), which compares the
    whole prompt at each step and waits for the GPU at each comparison; this one keeps an index on the host.
    """

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        #: Where the token stands that followed these last.
        self._after: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        """Take one more token as known."""
        for size in NGRAMS:
            if len(self._tokens) >= size:
                self._after[tuple(self._tokens[-size:])] = len(self._tokens)
        self._tokens.append(token)

    def following(self, ahead: Sequence[int], most: int) -> list[int]:
        """At most so many tokens; none where nothing has stood so before."""
        known = self._tokens
        tail = [*known[-NGRAMS[0] :], *ahead][-NGRAMS[0] :]
        for size in NGRAMS:
            start = self._after.get(tuple(tail[-size:])) if len(tail) >= size else None
            if start is not None:
                # What repeats with a short period is read on past its end.
                beyond = list(ahead)
                for place in range(start, start + most):
                    beyond.append(known[place] if place < len(known) else beyond[place - len(known)])
                return beyond[len(ahead) :]
        return []
