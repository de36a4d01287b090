"""The report as a whole: every figure as JSON and as a metric, and what depends on what was measured."""

import json
from typing import Any

import pytest

from formats.names import BASE, COMPOSED
from tests.workers.jobs.reports.test_verdicts import BIO, OTHERS, scored
from workers.jobs.reports.contamination import SeenExample
from workers.jobs.reports.report import MOST_SEEN_NAMED, Measured, build_report, report_metrics, unused
from xlora_engine.measuring.routing import Routing


def routing(*load_by_layer: tuple[float, float]) -> Routing:
    return Routing(
        experts=("bio", "protein"), load_by_layer=load_by_layer, entropy=0.4, layer_spread=0.1, tokens=7
    )


def report_with(composed: tuple[float, float], **measured: Any) -> dict[str, Any]:
    scores = {name: {"bio": scored(loss, loss + 0.5)} for name, loss in OTHERS.items()}
    scores[COMPOSED] = {"bio": scored(*composed, right=1)}
    given: dict[str, Any] = {"routing": {"bio": routing((0.9, 0.1), (0.7, 0.3))}, "seconds": {"report": 1.26}}
    found = build_report(Measured(scores=scores, tasks=BIO, **(given | measured)), seed=0)
    same: dict[str, Any] = json.loads(json.dumps(found))
    return same


def test_a_report_is_worth_it_as_long_as_every_task_is_kept() -> None:
    assert report_with((2.0, 2.5))["worth_it"] is False  # one of two answers is wrong
    scores = {name: {"bio": scored(2.0, 2.5)} for name in (*OTHERS, COMPOSED)}
    kept = build_report(Measured(scores=scores, tasks=BIO), seed=0)
    assert kept["worth_it"] is True
    assert [verdict["kept"] for verdict in kept["verdict"]] == [True]


def test_a_report_holds_every_figure_as_plain_json() -> None:
    report = report_with((2.0, 2.5))
    assert report["routing"]["bio"]["load"] == pytest.approx({"bio": 0.8, "protein": 0.2})
    assert report["subjects"] == [*OTHERS, COMPOSED]
    assert (report["tasks"], report["margin"]) == (["bio"], 0.02)
    assert report["seconds"] == {"report": 1.3}
    composed = report["scores"][COMPOSED]["bio"]
    assert (composed["loss"], composed["exact_match"], composed["n"]) == (2.25, 0.5, 2)


def test_differences_are_of_the_composition_less_every_other_subject() -> None:
    differences = report_with((2.0, 2.5))["differences"]
    assert [difference["against"] for difference in differences] == list(OTHERS)
    against = {difference["against"]: difference for difference in differences}
    # The same on both examples, so the interval has no width.
    assert against[BASE]["loss"]["mean"] == pytest.approx(-1.0)
    assert against["bio"]["loss"]["mean"] == against["bio"]["loss"]["low"] == 0.0
    assert against["bio"]["exact_match"]["mean"] == pytest.approx(-0.5)


def test_what_an_expert_contributes_is_what_the_composition_loses_without_it() -> None:
    report = report_with((2.0, 2.5), without={"bio": {"bio": scored(3.0)}}, halved={"bio": scored(2.1, 2.7)})
    lost = report["without"]["bio"]["bio"]
    assert (lost["score"]["n"], lost["change"]["n"], lost["change"]["loss"]["mean"]) == (1, 1, 1.0)
    assert report["reliance"]["halved"]["bio"]["change"]["loss"]["mean"] == pytest.approx(0.15)
    assert report["reliance"]["inactive"]["bio"]["change"]["loss"]["mean"] == pytest.approx(1.0)


def test_an_expert_is_unused_where_no_task_gives_it_a_share_in_any_layer() -> None:
    never = {"bio": routing((0.999, 0.001)), "protein": routing((0.995, 0.005))}
    assert unused(never) == ["protein"]
    assert unused({**never, "protein": routing((0.995, 0.005), (0.9, 0.1))}) == []
    assert unused({}) == []


def test_examples_that_were_trained_on_are_named_up_to_a_number_of_them() -> None:
    seen = [
        SeenExample(task="bio", line=n, dataset="bio.train@1", training_line=1, same="example")
        for n in range(MOST_SEEN_NAMED + 1)
    ]
    contamination = report_with((2.0, 2.5), seen=seen, unknown_training=["protein"])["contamination"]
    assert (contamination["count"], len(contamination["examples"])) == (51, 50)
    assert contamination["unknown"] == ["protein"]


def test_scores_and_differences_are_metrics_by_subject_and_task() -> None:
    metrics = report_metrics(report_with((2.0, 2.5)))
    assert (metrics["composed/bio/loss"], metrics["bio/bio/exact_match"]) == (2.25, 1.0)
    assert metrics["composed_less_base/bio/loss"] == pytest.approx(-1.0)
    low, high = (metrics[f"composed_less_bio/bio/exact_match_{bound}"] for bound in ("low", "high"))
    assert low <= -0.5 <= high
    assert metrics["routing/bio/protein"] == pytest.approx(0.2)
