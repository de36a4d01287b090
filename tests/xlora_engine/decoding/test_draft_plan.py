"""Drafts are what followed last time; a plan follows the source that was right more often recently."""

from collections.abc import Sequence

import pytest

from xlora_engine.decoding.draft_plan import DRAFTS_PER_RIGHT_ONE, MOST_DRAFTS, DraftPlanner, Plan
from xlora_engine.decoding.lookup_drafts import LookupDrafts

BASE = 7


class Scripted:
    """Drafts 100, 101, … whatever is known."""

    def append(self, token: int) -> None:
        pass

    def following(self, ahead: Sequence[int], most: int) -> list[int]:
        return [100 + len(ahead) + index for index in range(most)]


def test_drafts_are_what_followed_the_longest_match_last_time() -> None:
    drafts = LookupDrafts([1, 2, 3, 4, 50, 51, 9, 2, 3, 4, 60, 61, 1, 2, 3])

    assert drafts.following([4], 2) == [50, 51], "four equal tokens are preferred to three that came later"
    assert drafts.following([], 3) == [4, 50, 51]
    assert drafts.following([77], 3) == []
    drafts.append(4)
    assert drafts.following([], 2) == [50, 51]
    assert LookupDrafts([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3]).following([], 2) == [8, 1], "the last time counts"


def test_what_repeats_with_a_short_period_is_read_on_past_its_end() -> None:
    assert LookupDrafts([9, 1, 2, 1, 2]).following([], 5) == [1, 2, 1, 2, 1]
    assert LookupDrafts([9, 1, 2, 1]).following([2], 4) == [1, 2, 1, 2]


@pytest.mark.parametrize("tokens", [[], [1], [1, 2]])
def test_tokens_that_were_not_seen_before_give_no_draft(tokens: list[int]) -> None:
    assert LookupDrafts(tokens).following([], 3) == []


def test_without_drafts_a_plan_is_the_base_models_guess() -> None:
    assert DraftPlanner(LookupDrafts()).plan((), [BASE], room=50) == Plan(ready=(), next=(BASE,))


def test_the_source_that_was_right_recently_is_used() -> None:
    planner = DraftPlanner(Scripted())

    def planned() -> tuple[int, ...]:
        plan = planner.plan((100, 101), [BASE, BASE, BASE], room=50)
        return (*plan.ready, plan.next[0])

    for chosen, expected in (
        (100, (BASE,)),
        (100, (100, 101, 102)),
        (BASE, (100, 101, 102)),
        (BASE, (100, 101, 102)),
        (5, (BASE,)),
    ):
        assert planned() == expected
        planner.learn(chosen)
        planner.miss()
    assert planned() == (BASE,), "a token that neither guessed changes nothing"


def test_a_dispute_after_a_wrong_guess_is_dropped() -> None:
    planner = DraftPlanner(Scripted())
    planner.plan((), [BASE], room=50)  # disputes the next token
    planner.learn(100)
    planner.plan((100, 101), [BASE, BASE, BASE], room=50)  # and the next three

    planner.learn(5)
    planner.miss()
    planner.learn(BASE)

    assert planner.plan((100,), [BASE, BASE], room=50).ready == (100,)


def test_drafts_lengthen_while_they_are_right_and_shorten_when_one_is_wrong() -> None:
    planner = DraftPlanner(LookupDrafts([1, 2, 3, 4, 5, 6, 7, 8, 9] * 4))

    def length_after(token: int) -> int:
        planner.learn(token)
        return len(planner.drafts(room=50))

    assert len(planner.drafts(room=50)) == 1
    assert [length_after(token) for token in (1, 2, 3)] == [3, 5, 7]
    assert [length_after(token) for token in (4, 5, 6, 7, 8, 9)][-1] == MOST_DRAFTS
    assert length_after(50) == 0, "this token was not seen before"
    assert [length_after(token) for token in (1, 2)] == [0, 1 + DRAFTS_PER_RIGHT_ONE * 4]


@pytest.mark.parametrize("room", range(1, 8))
def test_nothing_is_planned_that_cannot_be_chosen(room: int) -> None:
    planner = DraftPlanner(LookupDrafts([1, 2, 3] * 4))
    for token in (1, 2, 3, 1):
        planner.learn(token)

    seen = planner.drafts(room=room)
    plan = planner.plan(seen, [*seen, BASE], room=room)

    assert len(seen) == room - 1
    assert plan.ready == seen
    assert plan.next == (BASE,), "a guess at least, though the forward may choose the last token"
    assert len(planner.plan((), [2], room=room).next) == max(1, room - 1)
