"""A composition's report as text for a terminal; knows only the report's JSON."""

from collections.abc import Mapping
from typing import Any


def score_rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """A subject each, with `loss / exact match` under every task; none before there are scores."""
    scores = report.get("scores", {})
    return [
        {
            "subject": subject,
            **{
                task: f"{score['loss']:.3f} / {score['exact_match']:.0%}"
                for task in report.get("tasks", scores[subject])
                for score in (scores[subject][task],)
            },
        }
        for subject in report.get("subjects", scores)
    ]


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """A line for each domain's verdict, then load and entropy of the routing, then what it all comes to."""
    lines = [
        f"{'ok  ' if verdict['kept'] else 'WARN'} {verdict['sentence']}"
        for verdict in report.get("verdict", ())
    ]
    for task, routing in report.get("routing", {}).items():
        load = ", ".join(f"{name} {share:.0%}" for name, share in routing["load"].items())
        dead = f"; dead: {', '.join(routing['dead'])}" if routing["dead"] else ""
        lines.append(f"     {task} is routed to {load} (entropy {routing['entropy']:.2f}{dead})")
    if "worth_it" in report:
        worth_it = "worth it" if report["worth_it"] else "NOT worth it everywhere: see the lines marked WARN"
        lines.append(worth_it)
    return lines
