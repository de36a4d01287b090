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
                task: f"{score['loss']:.3f} / {score['exact_match']:.0%}{_of_few(report, task, score)}"
                for task in report.get("tasks", scores[subject])
                for score in (scores[subject][task],)
            },
        }
        for subject in report.get("subjects", scores)
    ]


def change_rows(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """A change of the composition each: how the loss of every task changes, and its exact match in points."""
    changes = {
        **{f"without {expert}": by_task for expert, by_task in report.get("without", {}).items()},
        **{f"gates {how}": by_task for how, by_task in report.get("reliance", {}).items() if by_task},
    }
    return [
        {
            "change": name,
            **{
                task: f"{change['loss']['mean']:+.3f} / {100 * change['exact_match']['mean']:+.0f}"
                for task, row in by_task.items()
                for change in (row["change"],)
            },
        }
        for name, by_task in changes.items()
    ]


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """A line for each domain's verdict, then the routing, how it was trained, and what it all comes to."""
    lines = [
        f"{'ok  ' if verdict['kept'] else 'WARN'} {verdict['sentence']}"
        for verdict in report.get("verdict", ())
    ]
    for task, routing in report.get("routing", {}).items():
        load = ", ".join(f"{name} {share:.0%}" for name, share in routing["load"].items())
        dead = f"; dead: {', '.join(routing['dead'])}" if routing["dead"] else ""
        lines.append(f"     {task} is routed to {load} (entropy {routing['entropy']:.2f}{dead})")
    if report.get("unused"):
        lines.append(f"WARN nobody uses {', '.join(report['unused'])}: compose without")
    lines += method_lines(report)
    lines += search_lines(report)
    lines += _contamination_lines(report.get("contamination", {}))
    lines += [f"     {sentence}" for sentence in report.get("training", {}).get("sentences", ())]
    if "worth_it" in report:
        worth_it = "worth it" if report["worth_it"] else "NOT worth it everywhere: see the lines marked WARN"
        lines.append(worth_it)
    return lines


def search_lines(report: Mapping[str, Any]) -> list[str]:
    """A line for each adapter that was ranked before training, then whether the ranking was right."""
    search = report.get("search", {})
    return [
        *(
            f"     {row['name']} is chosen as number {row['place']}: loss {row['loss']:.3f} alone,"
            f" {row['joint_loss']:.3f} with those before it"
            if row["place"] is not None
            else f"     {row['name']} is not chosen: loss {row['loss']:.3f} alone,"
            f" {row['joint_loss']:.3f} with the chosen;"
            f" shares {row['overlap']:.0%} of its input directions with one of them"
            for row in search.get("ranking", ())
        ),
        *(f"     {sentence}" for sentence in search.get("sentences", ())),
    ]


def method_lines(report: Mapping[str, Any]) -> list[str]:
    """A line for each method of a report of all, the best first."""
    return [
        f"     method {row['method']} is left out: {row['left_out']}"
        if "left_out" in row
        else f"     method {row['method']}: mean loss {row['mean_loss']:.3f},"
        f" exact match {row['mean_exact_match']:.0%}, made in {row['seconds']:.0f} s"
        for row in report.get("methods", ())
    ]


def _of_few(report: Mapping[str, Any], task: str, score: Mapping[str, Any]) -> str:
    """How many examples a score is of, where others are of more."""
    most = max(other[task].get("n", 0) for other in report["scores"].values())
    return f" of {score['n']}" if score.get("n", most) < most else ""


def _contamination_lines(contamination: Mapping[str, Any]) -> list[str]:
    lines = []
    if contamination.get("count"):
        seen = contamination["examples"][0]
        lines.append(
            f"WARN {contamination['count']} held-out examples stand in training data, as {seen['task']} line"
            f" {seen['line']} does in {seen['dataset']} line {seen['training_line']}"
        )
    return lines
