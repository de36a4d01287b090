"""A composition's report as a terminal shows it; knows the report's JSON alone."""

from collections.abc import Mapping
from typing import Any


def score_rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """A subject each, with `loss / exact match` under every task."""
    rows = []
    for subject in report["subjects"]:
        row = {"subject": subject}
        for task in report["tasks"]:
            cell = report["scores"][subject][task]
            row[task] = f"{cell['loss']:.3f} / {cell['exact_match']:.0%}"
        rows.append(row)
    return rows


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """The findings, then load and entropy of the routing, then what it all comes to."""
    lines = [
        f"{'ok  ' if finding['kept'] else 'WARN'} {finding['sentence']}" for finding in report["verdict"]
    ]
    for task, routing in report["routing"].items():
        load = ", ".join(f"{name} {share:.0%}" for name, share in routing["load"].items())
        dead = f"; dead: {', '.join(routing['dead'])}" if routing["dead"] else ""
        lines.append(f"     {task} is routed to {load} (entropy {routing['entropy']:.2f}{dead})")
    lines.append("worth it" if report["worth_it"] else "NOT worth it everywhere: see the lines marked WARN")
    return lines
