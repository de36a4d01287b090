"""Which guesses the next forward pass carries: two sources of guesses, and how far ahead. Pure.

The scaling pass guesses one token after each that it has seen; drafts go further. Where they disagree, the
source that was right more often recently is followed, as a branch predictor chooses between two others
(McFarling 1993, "Combining branch predictors").
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xlora_engine.decoding.lookup_drafts import Drafts

#: The most drafts in one forward pass, and how many more for each recent hit. A forward pass over sixteen
#: tokens takes less than twice as long as over one (SmolLM2-135M, one thread: benchmarks/LOG.md).
MOST_DRAFTS, DRAFTS_PER_RIGHT_ONE = 16, 2

#: The credit from which on drafts are followed; each dispute they win or lose counts one.
_FOLLOWED_CREDIT, _FIRST_CREDIT, _MOST_CREDIT = 2, 1, 3


@dataclass(frozen=True)
class Plan:
    """What one forward pass carries beside the newest token."""

    #: For the mixture pass, after the newest token: guesses that the scaling pass has seen.
    ready: tuple[int, ...]
    #: For the scaling pass, after those: guesses that it has not.
    next: tuple[int, ...]


class DraftPlanner:
    """Plans the forward passes, and learns from the tokens that the mixture chose."""

    def __init__(self, drafts: Drafts) -> None:
        self._drafts = drafts
        #: Recent draft hits; halved on a miss.
        self._streak = 0
        self._credit = _FIRST_CREDIT
        self._known = 0
        #: Index of a token not yet chosen -> the token of the drafts and that of the scaling pass.
        self._disputes: dict[int, tuple[int, int]] = {}

    def learn(self, token: int) -> None:
        """Record the token that the mixture has chosen."""
        for drafted in self._drafts.following((), 1):
            right = drafted == token
            self._streak = min(self._streak + 1, MOST_DRAFTS) if right else self._streak // 2
        draft, guess = self._disputes.pop(self._known, (None, None))
        if token == draft:
            self._credit = min(self._credit + 1, _MOST_CREDIT)
        elif token == guess:
            self._credit = max(self._credit - 1, 0)
        self._known += 1
        self._drafts.append(token)

    def miss(self) -> None:
        """The last token was not the planned one, so disputes about later tokens no longer count."""
        self._disputes.clear()

    def drafts(self, *, room: int) -> tuple[int, ...]:
        """Drafts for a scaling pass on the newest token, if `room` more tokens may be generated."""
        return tuple(self._drafts.following((), min(self._length(), room - 1)))

    def plan(self, seen: Sequence[int], guesses: Sequence[int], *, room: int) -> Plan:
        """The forward pass after a scaling pass that has seen the newest token, and `seen` after it.

        `guesses` are the scaling pass's next tokens after the newest token and after each of `seen`; `room`
        is how many more tokens may be generated, at least 1.
        """
        ready: list[int] = []
        for draft, guess in zip(seen[: room - 1], guesses, strict=False):
            if self._followed(len(ready), draft, guess) != draft:
                break
            ready.append(draft)
        guess = guesses[len(ready)]
        for draft in self._drafts.following(ready, 1):
            guess = self._followed(len(ready), draft, guess)
        left = max(room - len(ready) - 2, 0)
        further = self._drafts.following([*ready, guess], min(self._length(), left))
        return Plan(ready=tuple(ready), next=(guess, *further))

    def _length(self) -> int:
        return min(1 + DRAFTS_PER_RIGHT_ONE * self._streak, MOST_DRAFTS)

    def _followed(self, ahead: int, draft: int, guess: int) -> int:
        if draft == guess:
            return draft
        self._disputes.setdefault(self._known + ahead, (draft, guess))
        return draft if self._credit >= _FOLLOWED_CREDIT else guess
