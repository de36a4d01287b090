"""Verdicts: every threshold beside it on either side, and the words for intervals on each side of it."""

import pytest

from formats.names import BASE, COMPOSED, UNIFORM
from workers.jobs.reports.verdicts import Tasks, difference, verdict_of
from xlora_engine.data.answer_scores import AnswerScores
from xlora_engine.measuring.bootstrap import Interval
from xlora_engine.metrics.judgement import BETTER, CANNOT_TELL, MARGIN, NO_WORSE, WORSE, verdict_word

#: Of one task: base, two experts, the uniform mixture; what is composed is each test's own.
OTHERS = {BASE: 3.0, "bio": 2.0, "protein": 2.2, UNIFORM: 2.5}
BIO = Tasks(own_expert={"bio": "bio"}, mixed=())
MIXED = Tasks(own_expert={"bio": "bio", "protein": "protein"}, mixed=("both",))


def scored(*losses: float, right: int | None = None) -> AnswerScores:
    """Examples of one token each; the first `right` answers match, all if left out."""
    matches = tuple(float(right is None or number < right) for number in range(len(losses)))
    return AnswerScores(example_losses=losses, example_matches=matches, example_tokens=(1,) * len(losses))


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-0.3, -0.1, BETTER),
        (-0.3, 0.0, NO_WORSE),
        (-0.3, 0.02, NO_WORSE),
        (0.01, 0.02, NO_WORSE),
        (-0.3, 0.021, CANNOT_TELL),
        (0.02, 0.3, CANNOT_TELL),
        (0.021, 0.3, WORSE),
    ],
)
def test_the_word_says_on_which_side_of_the_margin_the_interval_lies(
    low: float, high: float, word: str
) -> None:
    assert verdict_word(Interval(mean=(low + high) / 2, low=low, high=high), 0.02) == word


@pytest.mark.parametrize(
    ("loss", "word", "kept", "said"),
    [
        (2.048, WORSE, False, "1.024 times 2.000"),
        (2.038, NO_WORSE, True, "1.019 times 2.000"),
        (1.9, BETTER, True, "0.950 times 2.000"),
    ],
)
def test_a_loss_beside_the_margin_is_distinguished_from_it(
    loss: float, word: str, kept: bool, said: str
) -> None:
    scores = {name: {"bio": scored(value, value)} for name, value in {**OTHERS, COMPOSED: loss}.items()}
    (verdict,) = verdict_of(scores, BIO)
    assert (verdict.verdict, verdict.kept, verdict.against, verdict.n) == (word, kept, "bio", 2)
    assert verdict.sentence.startswith(f"bio: {word} than bio alone: loss {loss:.3f}")
    assert said in verdict.sentence


@pytest.mark.parametrize(
    ("own", "loss", "word", "said"),
    [
        (0.0, 0.0, NO_WORSE, "+0.0000 against 0.0000"),
        (0.0, 0.0009, NO_WORSE, "margin 0.0010"),
        (0.0, 0.0011, WORSE, "+0.0011 against 0.0000"),
        (0.06, 0.0611, NO_WORSE, "1.018 times 0.060"),
        (0.06, 0.0613, WORSE, "1.022 times 0.060"),
    ],
)
def test_a_loss_of_nearly_nothing_is_compared_by_difference(
    own: float, loss: float, word: str, said: str
) -> None:
    losses = {**OTHERS, "bio": own, COMPOSED: loss}
    (verdict,) = verdict_of({name: {"bio": scored(value)} for name, value in losses.items()}, BIO)
    assert (verdict.verdict, said in verdict.sentence) == (word, True)


@pytest.mark.parametrize(("right", "word", "kept"), [(49, CANNOT_TELL, True), (47, CANNOT_TELL, False)])
def test_where_the_interval_cannot_tell_the_scores_themselves_decide(
    right: int, word: str, kept: bool
) -> None:
    # Given a loss that is better on half of the examples and worse on the others, and some wrong answers
    count = 50
    assert 1 / count == MARGIN
    scores = {name: {"bio": scored(*(loss,) * count)} for name, loss in OTHERS.items()}
    scores[COMPOSED] = {"bio": scored(*(1.0, 3.0) * (count // 2), right=right)}
    (verdict,) = verdict_of(scores, BIO)
    assert (verdict.verdict, verdict.kept) == (word, kept)
    assert verdict.sentence.startswith("bio: cannot tell with n = 50 against bio alone")


def test_answers_that_are_wrong_more_often_make_it_worse_whatever_the_loss() -> None:
    scores = {name: {"bio": scored(*(loss,) * 50)} for name, loss in OTHERS.items()}
    scores[COMPOSED] = {"bio": scored(*(1.0,) * 50, right=30)}
    (verdict,) = verdict_of(scores, BIO)
    assert (verdict.verdict, verdict.kept) == (WORSE, False)


def test_a_domain_is_compared_with_the_best_expert_scored_on_all_its_examples() -> None:
    scores = {name: {"bio": scored(loss, loss)} for name, loss in {**OTHERS, COMPOSED: 2.0}.items()}
    scores["protein"] = {"bio": scored(1.5, 1.5)}
    (verdict,) = verdict_of(scores, BIO)
    assert (verdict.against, verdict.verdict) == ("protein", WORSE)
    assert "the best single expert, protein" in verdict.sentence
    # An expert that was scored on some examples alone is no rival: it was worse on these.
    scores["protein"] = {"bio": scored(1.5)}
    assert verdict_of(scores, BIO)[0].against == "bio"


@pytest.mark.parametrize(("loss", "kept"), [(2.0, False), (1.999, True), (2.1, False)])
def test_a_mixed_task_is_kept_only_below_the_best_single_expert(loss: float, kept: bool) -> None:
    tasks = (*MIXED.own_expert, "both")
    scores = {name: dict.fromkeys(tasks, scored(value)) for name, value in OTHERS.items()}
    # That the uniform mixture and the base are better still is no matter.
    scores[UNIFORM] = scores[BASE] = dict.fromkeys(tasks, scored(0.5))
    scores[COMPOSED] = {"bio": scored(2.0), "protein": scored(2.0), "both": scored(loss)}
    domains, mixed = verdict_of(scores, MIXED)[:2], verdict_of(scores, MIXED)[2]
    assert [verdict.task for verdict in domains] == ["bio", "protein"]
    assert all(verdict.kept for verdict in domains)
    assert (mixed.task, mixed.kept, mixed.against) == ("both", kept, "bio")


def test_a_difference_is_of_the_examples_that_both_were_scored_on() -> None:
    found = difference(
        scored(1.0, 1.0, 9.0), scored(2.0, 2.0), task="bio", against="x", margin=MARGIN, seed=0
    )
    assert (found.n, found.loss.mean, found.loss.high) == (2, -1.0, -1.0)


def test_a_loss_is_a_mean_over_tokens() -> None:
    ours = AnswerScores(example_losses=(1.0, 2.0), example_matches=(1.0, 1.0), example_tokens=(3, 1))
    theirs = AnswerScores(example_losses=(0.0, 0.0), example_matches=(1.0, 1.0), example_tokens=(3, 1))
    found = difference(ours, theirs, task="bio", against="x", margin=MARGIN, seed=0)
    assert found.loss.mean == ours.loss - theirs.loss == 1.25
