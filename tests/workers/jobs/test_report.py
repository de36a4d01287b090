"""Was it worth it: every threshold of the verdict, beside it on either side, and the report as a whole."""

import json

import pytest

from formats.names import BASE, COMPOSED, UNIFORM
from workers.jobs.report import EXACT_MATCH_MARGIN, Tasks, build_report, verdict_of
from xlora_engine.data.answer_scores import AnswerScores
from xlora_engine.measuring.routing import Routing

#: Of one task: base, two experts, the uniform mixture; what is composed is each test's own.
OTHERS = {BASE: 3.0, "bio": 2.0, "protein": 2.2, UNIFORM: 2.5}
BIO = Tasks(own_expert={"bio": "bio"}, mixed=())
MIXED = Tasks(own_expert={"bio": "bio", "protein": "protein"}, mixed=("both",))


def scored(*losses: float, right: int | None = None) -> AnswerScores:
    """Examples of one token each; the first `right` answers match, all if left out."""
    matches = tuple(float(right is None or number < right) for number in range(len(losses)))
    return AnswerScores(example_losses=losses, example_matches=matches, example_tokens=(1,) * len(losses))


@pytest.mark.parametrize(
    ("loss", "kept", "said"), [(2.048, False, "1.024 times"), (2.038, True, "1.019 times")]
)
def test_a_loss_beside_the_limit_is_distinguished_from_it(loss: float, kept: bool, said: str) -> None:
    scores = {name: {"bio": scored(value)} for name, value in {**OTHERS, COMPOSED: loss}.items()}
    (verdict,) = verdict_of(scores, BIO)
    assert (verdict.kept, said in verdict.sentence) == (kept, True)


@pytest.mark.parametrize(
    ("own", "loss", "kept", "said"),
    [
        (0.0, 0.0, True, "+0.0000 against that (0.0000)"),
        (1e-7, 1e-5, True, "+0.0000 against that"),
        (0.0, 0.0009, True, "keeps the limit of +0.001"),
        (0.0, 0.0011, False, "WORSE than the limit of +0.001"),
        (0.06, 0.0611, True, "1.018 times that"),
        (0.06, 0.0613, False, "WORSE than the limit of 1.02"),
    ],
)
def test_a_loss_of_nearly_nothing_is_compared_by_difference(
    own: float, loss: float, kept: bool, said: str
) -> None:
    losses = {**OTHERS, "bio": own, COMPOSED: loss}
    scores = {name: {"bio": scored(value)} for name, value in losses.items()}
    (verdict,) = verdict_of(scores, BIO)
    assert (verdict.kept, said in verdict.sentence) == (kept, True)
    assert build_report(scores, BIO, routing={}, seconds={}, seed=0)["worth_it"] is kept


@pytest.mark.parametrize(("right", "kept"), [(48, True), (47, False)])
def test_a_domain_is_kept_within_the_margin_below_the_best_expert(right: int, kept: bool) -> None:
    count = 50
    assert 1 / count == EXACT_MATCH_MARGIN
    scores = {name: {"bio": scored(*(loss,) * count, right=0)} for name, loss in OTHERS.items()}
    # The best need not be the domain's own expert; base and uniform mixture are no experts.
    scores["protein"] = {"bio": scored(*(2.2,) * count, right=49)}
    scores[BASE] = scores[UNIFORM] = {"bio": scored(*(2.5,) * count)}
    scores[COMPOSED] = {"bio": scored(*(2.0,) * count, right=right)}
    (verdict,) = verdict_of(scores, BIO)
    assert verdict.kept is kept
    assert verdict.sentence.endswith("best expert 98%" if kept else "best expert 98% (WORSE)")


@pytest.mark.parametrize(
    ("loss", "kept", "said"), [(2.0, False, "NOT below"), (1.999, True, "below"), (2.1, False, "NOT below")]
)
def test_a_mixed_task_is_kept_only_below_the_best_single_expert(loss: float, kept: bool, said: str) -> None:
    tasks = (*MIXED.own_expert, "both")
    scores = {name: dict.fromkeys(tasks, scored(value)) for name, value in OTHERS.items()}
    # That the uniform mixture and the base are better still is no matter.
    scores[UNIFORM] = scores[BASE] = dict.fromkeys(tasks, scored(0.5))
    scores[COMPOSED] = {"bio": scored(2.0), "protein": scored(2.2), "both": scored(loss)}
    domains, mixed = verdict_of(scores, MIXED)[:2], verdict_of(scores, MIXED)[2]
    assert [verdict.task for verdict in domains] == ["bio", "protein"]
    assert all(verdict.kept for verdict in domains)
    assert (mixed.task, mixed.kept) == ("both", kept)
    assert f"{said} the best single expert's 2.000 (bio)" in mixed.sentence


def report_with(composed: tuple[float, float]) -> dict[str, object]:
    scores = {name: {"bio": scored(loss, loss + 0.5)} for name, loss in OTHERS.items()}
    scores[COMPOSED] = {"bio": scored(*composed, right=1)}
    load = (("bio", "protein"), ((0.9, 0.1), (0.7, 0.3)))
    routing = Routing(experts=load[0], load_by_layer=load[1], entropy=0.4, tokens=7)
    return build_report(scores, BIO, routing={"bio": routing}, seconds={"report": 1.26}, seed=0)


def test_a_report_is_worth_it_as_long_as_every_task_is_kept() -> None:
    assert report_with((2.0, 2.5))["worth_it"] is False  # one of two answers is wrong
    scores = {name: {"bio": scored(2.0, 2.5)} for name in (*OTHERS, COMPOSED)}
    kept = build_report(scores, BIO, routing={}, seconds={}, seed=0)
    assert kept["worth_it"] is True
    assert [verdict["kept"] for verdict in kept["verdict"]] == [True]


def test_a_report_holds_every_figure_as_plain_json() -> None:
    report = json.loads(json.dumps(report_with((2.0, 2.5))))
    assert report["routing"]["bio"]["load"] == pytest.approx({"bio": 0.8, "protein": 0.2})
    assert report["subjects"] == [*OTHERS, COMPOSED]
    assert report["tasks"] == ["bio"]
    assert report["seconds"] == {"report": 1.3}
    composed = report["scores"][COMPOSED]["bio"]
    assert (composed["loss"], composed["exact_match"], composed["n"]) == (2.25, 0.5, 2)


def test_differences_are_of_the_composition_less_every_other_subject() -> None:
    differences = report_with((2.0, 2.5))["differences"]
    assert isinstance(differences, list)
    assert [difference["against"] for difference in differences] == list(OTHERS)
    against = {difference["against"]: difference for difference in differences}
    # The same on both examples, so the interval has no width.
    assert against[BASE]["loss"]["mean"] == pytest.approx(-1.0)
    assert against["bio"]["loss"]["mean"] == against["bio"]["loss"]["low"] == 0.0
    assert against["bio"]["exact_match"]["mean"] == pytest.approx(-0.5)
