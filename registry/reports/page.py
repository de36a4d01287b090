"""A composition's report as one HTML page: no script, no network, everything from the data escaped.

The page's content security policy forbids scripts and requests, so that what stands in an example or a name
stays text even if escaping failed. Knows only the report's JSON; what an older report lacks is left out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from registry.reports.charts import (
    LAYERS_HEIGHT,
    LAYERS_WIDTH,
    differences_on,
    interval_shape,
    percent_shares,
    stacked_areas,
)

#: Colours of experts, which people who see few colours can tell apart (Okabe and Ito 2008); then again.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")

_PARTS = ("differences", "without", "reliance", "routing", "samples", "unused", "contamination", "seconds")


def report_page(report: Mapping[str, Any], *, title: str) -> str:
    """The page of a report; `title` is what the composition is called."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        interval_shape=interval_shape,
        stacked_areas=stacked_areas,
        percent_shares=percent_shares,
        differences_on=differences_on,
        layers_size=(LAYERS_WIDTH, LAYERS_HEIGHT),
    )
    environment.filters["colour"] = lambda index: COLOURS[index % len(COLOURS)]
    environment.filters["token"] = shown_token
    parts = {name: report.get(name) or {} for name in _PARTS}
    return environment.get_template("report.html").render(
        title=title,
        report=report,
        experts=_experts(report),
        few=_few(report),
        **parts,
    )


def shown_token(token: str) -> str:
    """A token as text that shows its line breaks and that it is not empty."""
    return token.replace("\n", "↵").replace("\t", "⇥") or "∅"


def _experts(report: Mapping[str, Any]) -> list[str]:
    """In the order of the gates, or of the table where nothing is routed."""
    routed = next(iter((report.get("routing") or {}).values()), None)
    return list(routed["experts"]) if routed else list(report.get("without") or {})


def _few(report: Mapping[str, Any]) -> dict[str, int]:
    """For each task the most examples of any subject: a score of fewer is marked."""
    scores = report.get("scores", {})
    return {
        task: max(score[task]["n"] for score in scores.values() if task in score and "n" in score[task])
        for task in report.get("tasks", ())
        if any("n" in score.get(task, {}) for score in scores.values())
    }
