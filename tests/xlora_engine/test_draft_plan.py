"""Drafts are what followed last time; a plan believes whoever has been right of late."""

from collections.abc import Sequence

import pytest

from xlora_engine.draft_plan import FIRST_DRAFTS, LEAST_DRAFTS, MOST_DRAFTS, DraftPlanner, Plan
from xlora_engine.lookup_drafts import LookupDrafts

BASE = 7


class Scripted:
    """Drafts 100, 101, … whatever is known."""

    def append(self, token: int) -> None:
        pass

    def following(self, ahead: Sequence[int], most: int) -> list[int]:
        return [100 + len(ahead) + place for place in range(most)]


def test_drafts_are_what_followed_the_longest_match_last_time() -> None:
    drafts = LookupDrafts([1, 2, 3, 4, 50, 51, 9, 2, 3, 4, 60, 61, 1, 2, 3])

    assert drafts.following([4], 2) == [50, 51], "four alike tell more than three that came later"
    assert drafts.following([], 3) == [4, 50, 51]
    assert drafts.following([77], 3) == []
    drafts.append(4)
    assert drafts.following([], 2) == [50, 51]


def test_what_repeats_with_a_short_period_is_read_on_past_its_end() -> None:
    assert LookupDrafts([9, 1, 2, 1, 2]).following([], 5) == [1, 2, 1, 2, 1]
    assert LookupDrafts([9, 1, 2, 1]).following([2], 4) == [1, 2, 1, 2]


@pytest.mark.parametrize("tokens", [[], [1], [1, 2]])
def test_what_never_stood_so_before_gives_no_draft(tokens: list[int]) -> None:
    assert LookupDrafts(tokens).following([], 3) == []


def test_without_drafts_a_plan_is_the_base_models_guess() -> None:
    assert DraftPlanner(LookupDrafts()).plan((), [BASE], room=50) == Plan(ready=(), next=(BASE,))


def test_whoever_was_right_of_late_is_believed() -> None:
    planner = DraftPlanner(Scripted())

    def believed() -> tuple[int, ...]:
        plan = planner.plan((100, 101), [BASE, BASE, BASE], room=50)
        return (*plan.ready, plan.next[0])

    for chosen, expected in (
        (100, (BASE,)),
        (100, (100, 101, 102)),
        (BASE, (100, 101, 102)),
        (BASE, (100, 101, 102)),
        (5, (BASE,)),
    ):
        assert believed() == expected
        planner.learn(chosen)
        planner.settle(right=0)
    assert believed() == (BASE,), "a token that neither guessed settles nothing"


def test_a_dispute_after_a_wrong_guess_is_dropped() -> None:
    planner = DraftPlanner(Scripted())
    planner.plan((), [BASE], room=50)  # disputes the next token
    planner.learn(100)
    planner.plan((100, 101), [BASE, BASE, BASE], room=50)  # and the next three

    planner.learn(5)
    assert not planner.settle(right=0)
    planner.learn(BASE)

    assert planner.plan((100,), [BASE, BASE], room=50).ready == (100,)


def test_drafts_lengthen_with_right_ones_and_shorten_with_wrong_ones() -> None:
    planner = DraftPlanner(Scripted())

    def length_after(*, right: bool) -> int:
        seen = planner.drafts(room=50)
        plan = planner.plan(seen, [*seen, BASE], room=50)
        assert planner.settle(len(plan.ready) + 1 if right else 0) is right
        return len(planner.drafts(room=50))

    assert len(planner.drafts(room=50)) == FIRST_DRAFTS
    assert [length_after(right=True) for _ in range(5)][-1] == MOST_DRAFTS
    assert length_after(right=False) == MOST_DRAFTS // 2
    assert [length_after(right=False) for _ in range(5)][-1] == LEAST_DRAFTS


def test_drafts_that_the_base_model_overrules_get_shorter() -> None:
    planner = DraftPlanner(Scripted())

    planner.plan((100, 101, 102, 103), [BASE] * 5, room=50)

    assert len(planner.drafts(room=50)) == FIRST_DRAFTS // 2


@pytest.mark.parametrize("room", range(1, 8))
def test_nothing_is_planned_that_cannot_be_chosen(room: int) -> None:
    planner = DraftPlanner(Scripted())

    seen = planner.drafts(room=room)
    plan = planner.plan(seen, [100 + place for place in range(len(seen) + 1)], room=room)

    assert len(seen) <= room - 1
    # The newest token's forward chooses one token more than it has ready; the last is seen by no pass.
    assert len(plan.ready) + 1 <= room
    assert len(plan.next) == max(1, min(FIRST_DRAFTS + 1, room - len(plan.ready) - 1))
