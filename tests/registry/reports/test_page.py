"""The page of a report: every figure, and nothing that runs or asks the network, whatever the data holds."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from registry.reports.charts import interval_shape, percent_shares, stacked_areas
from registry.reports.page import report_page, shown_token

HOSTILE = "</style><script>document.title='run'</script><img src=x onerror=alert(1)>\" onmouseover='x"


def score(loss: float, n: int = 9) -> dict[str, Any]:
    return {"loss": loss, "exact_match": 0.5, "n": n}


def difference(task: str, against: str, verdict: str = "no worse") -> dict[str, Any]:
    interval = {"mean": 0.01, "low": -0.02, "high": 0.03}
    return {
        "task": task,
        "against": against,
        "n": 9,
        "verdict": verdict,
        "loss_margin": 0.02,
        "loss": interval,
        "exact_match": interval,
    }


def report_of(name: str) -> dict[str, Any]:
    """A whole report in which a task, an expert, tokens and a dataset have this name."""
    change = {name: {"score": score(2.0), "change": difference(name, "composed", "worse")}}
    return {
        "subjects": ["base", name, "composed"],
        "tasks": [name],
        "own_expert": {name: name},
        "margin": 0.02,
        "worth_it": True,
        "seconds": {name: 1.5},
        "unused": [name],
        "scores": {
            "base": {name: score(3.0, n=4)},
            name: {name: score(1.0)},
            "composed": {name: score(1.01)},
        },
        "differences": [difference(name, "base", "better"), difference(name, name)],
        "without": {name: change},
        "reliance": {"halved": change, "inactive": change},
        "routing": {
            name: {
                "experts": [name, "x"],
                "load": {name: 0.8, "x": 0.2},
                "entropy": 0.4,
                "dead": [name],
                "load_by_layer": [[0.9, 0.1], [0.7, 0.3]],
                "layer_spread": 0.1,
            }
        },
        "samples": [
            {
                "task": name,
                "tokens": [name, "a\n"],
                "answer_from": 1,
                "experts": [name, "x"],
                "shares": [[0.9, 0.1], [0.2, 0.8]],
                "by_depth": [[[1.0, 0.0], [0.8, 0.2]]] * 2,
            }
        ],
        "contamination": {
            "count": 2,
            "unknown": [name],
            "examples": [{"task": name, "line": 3, "dataset": name, "training_line": 4, "same": "example"}],
        },
        "verdict": [
            {"task": name, "verdict": "no worse", "against": name, "n": 9, "kept": True, "sentence": name}
        ],
    }


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_every_part_of_a_report() -> None:
    page = report_page(report_of("bio"), title="science@2")
    text = " ".join(Elements(page).text.split())
    for said in (
        "science@2: worth it",
        "than bio alone; 9 examples",
        "loss +0.0100 (-0.0200 to +0.0300)",
        "1.010 50%",
        "3.000 50% of 4",
        "Nobody uses bio",
        "entropy 0.40, spread over layers 0.10; unused: bio",
        "2 held-out examples stand in training data",
        "bio, line 3: the whole example is line 4 of bio",
        "and 1 more",
        "bio 1.5 s",
    ):
        assert said in text, said


def test_what_stands_in_the_data_is_shown_and_never_run() -> None:
    elements = Elements(report_page(report_of(HOSTILE), title=HOSTILE))
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "img", "iframe", "link", "object", "embed", "a", "form"}
    assert not [name for _, given in elements.found for name in given if name.startswith("on")]
    assert HOSTILE in elements.text


def test_a_page_asks_nothing_of_the_network_and_forbids_scripts() -> None:
    page = report_page(report_of("bio"), title="science@2")
    assert not re.findall(r"(?:https?:)?//|url\(|@import", page)
    policies = [g["content"] for tag, g in Elements(page).found if "http-equiv" in g and tag == "meta"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"worth_it": True},
        {
            "subjects": ["uniform", "composed"],
            "tasks": ["bio"],
            "scores": {name: {"bio": {"loss": 0.7, "exact_match": 0.5}} for name in ("composed", "uniform")},
            "verdict": [{"task": "bio", "kept": False, "sentence": "bio: loss 0.710"}],
            "worth_it": False,
        },
    ],
)
def test_a_report_of_before_or_without_scores_has_a_page(report: dict[str, Any]) -> None:
    text = Elements(report_page(report, title="old@1")).text
    assert "old@1" in text
    assert ("bio: loss 0.710" in text) is bool(report.get("verdict"))


def test_an_interval_is_drawn_on_a_line_that_holds_it() -> None:
    shape = interval_shape(-3.0, -2.0, -1.0, 0.1)
    assert 0 < shape.low < shape.mean < shape.high < 50 < shape.margin < 55
    assert interval_shape(0.0, 0.0, 0.0, 0.0).mean == 50


def test_areas_of_all_experts_fill_the_height_at_every_layer() -> None:
    first, second = stacked_areas([[0.5, 0.5], [3.0, 1.0]])
    assert first == "0.0,30.0 300.0,15.0 300.0,60.0 0.0,60.0"
    assert second == "0.0,0.0 300.0,0.0 300.0,15.0 0.0,30.0"
    assert stacked_areas([[1.0]]) == ["0.0,0.0 300.0,0.0 300.0,60.0 0.0,60.0"]
    assert percent_shares([0.0, 0.0]) == [0.0, 0.0]
    assert percent_shares([-1.0, 2.0]) == [0.0, 100.0]


@pytest.mark.parametrize(("token", "shown"), [("\n", "↵"), ("", "∅"), ("a\tb", "a⇥b"), (" x", " x")])
def test_a_token_is_shown_so_that_it_can_be_seen(token: str, shown: str) -> None:
    assert shown_token(token) == shown
