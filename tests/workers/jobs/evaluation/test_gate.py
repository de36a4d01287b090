"""An alias that moves only to what is no worse: the decision on both sides, and the reason in the history."""

import re
from typing import Any

import pytest

from registry.entities import Job
from registry.errors import AliasMoved
from registry.service import Registry
from tests.pico import pico_adapter
from tests.workers.stocked_zoo import Started
from workers.errors import AliasKept, SpecInvalid
from workers.jobs.evaluation import job
from workers.jobs.evaluation.gate import AskedMove, decided, move_unless_worse
from workers.requests.evaluation import AskedTask
from workers.requests.specs import EvalSpec

NEW, OLD = "adapter:bio@2", "adapter:bio@1"


def outcome(**intervals: tuple[float, float]) -> dict[str, Any]:
    return {
        "scores": {subject: {"bio": dict.fromkeys(intervals, 1.0)} for subject in (NEW, OLD)},
        "differences": [
            {
                "subject": NEW,
                "against": OLD,
                "task": "bio",
                "metric": metric,
                "difference": (low + high) / 2,
                "low": low,
                "high": high,
                "n": 9,
            }
            for metric, (low, high) in intervals.items()
        ],
    }


@pytest.mark.parametrize(
    ("intervals", "is_no_worse", "said"),
    [
        ({"loss": (-0.2, -0.1)}, True, "better than"),
        ({"loss": (-0.2, 0.019)}, True, "no worse than"),
        ({"loss": (-0.2, 0.021)}, False, "cannot tell against"),
        ({"loss": (0.03, 0.2)}, False, "worse than"),
        ({"loss": (-0.2, -0.1), "exact_match": (-0.2, -0.1)}, False, "worse than .* exact_match"),
        ({"loss": (-0.2, -0.1), "exact_match": (-0.2, 0.1)}, True, "better than"),
        # Perplexity follows the loss, and is no share that is compared as it is.
        ({"loss": (-0.2, 0.019), "perplexity": (0.1, 0.2)}, True, "no worse than"),
        ({"accuracy": (0.1, 0.2), "loss": (0.1, 0.2)}, True, "better than .* accuracy"),
        ({}, False, "nothing that both have was measured"),
    ],
)
def test_the_deciding_metric_is_no_worse_and_no_share_is_worse(
    intervals: dict[str, tuple[float, float]], is_no_worse: bool, said: str
) -> None:
    decision = decided(outcome(**intervals), subject=NEW)
    assert decision.is_no_worse is is_no_worse
    assert re.search(said, decision.sentence)


@pytest.fixture
def with_champion(stocked: Registry, tmp_path: Any) -> Registry:
    stocked.adapters.register(pico_adapter(tmp_path / "again", seed=7), name="bio")
    stocked.adapters.set_alias("bio", "champion", 1)
    return stocked


def move(**more: Any) -> AskedMove:
    fields = {"name": "bio", "alias": "champion", "version": 2, "unless_worse_than": "champion"}
    return AskedMove(**{**fields, "tasks": [AskedTask(data="bio.eval")], **more})


def test_an_alias_moves_with_the_reason_or_stays_with_it(with_champion: Registry, started: Started) -> None:
    zoo = with_champion

    def run(spec: EvalSpec) -> Job:
        context = started(spec)
        done = job.run(context)
        zoo.jobs.finish(context.job.id, fence=context.fence, state="succeeded", reason="ok", outcome=done)
        return zoo.jobs.get(context.job.id)

    # All that both may differ by is allowed, so it moves.
    moved = move_unless_worse(zoo, zoo.adapters, move(margin=1.0, reason="try it"), run=run)
    assert (moved.version, moved.previous) == (2, 1)
    assert moved.reason is not None
    assert moved.reason.startswith("try it; ")
    assert "than adapter:bio@1 on bio: loss" in moved.reason
    # What is measured again is worse one way or the other, unless both are equal.
    losses = {
        one.subject: one.value for one in zoo.evaluations.list() if one.task == "bio" and one.metric == "loss"
    }
    better, worse = sorted((1, 2), key=lambda version: losses[f"adapter:bio@{version}"])
    zoo.adapters.set_alias("bio", "champion", better)
    with pytest.raises(AliasKept, match=rf"bio@champion stays: .* bio@{worse} .* than adapter:bio@{better}"):
        move_unless_worse(zoo, zoo.adapters, move(version=worse, margin=0.0), run=run)
    assert zoo.adapters.get("bio@champion").version == better


def test_an_alias_that_another_process_moved_meanwhile_is_left(
    with_champion: Registry, started: Started
) -> None:
    zoo = with_champion

    def run(spec: EvalSpec) -> Job:
        context = started(spec)
        done = job.run(context)
        zoo.jobs.finish(context.job.id, fence=context.fence, state="succeeded", reason="ok", outcome=done)
        zoo.adapters.set_alias("bio", "champion", 2)
        return zoo.jobs.get(context.job.id)

    with pytest.raises(AliasMoved):
        move_unless_worse(zoo, zoo.adapters, move(margin=1.0), run=run)


def test_a_version_is_not_compared_with_itself(with_champion: Registry) -> None:
    with pytest.raises(SpecInvalid, match="another than bio@1"):
        move_unless_worse(with_champion, with_champion.adapters, move(version=1), run=lambda _: None)
