"""Was composing worth it? The report of a composition: pure decisions from what was measured.

Subjects are `base`, every expert by name, `uniform` (all experts at 1/n), whatever else it is compared with,
and `composed`; tasks are the domains and whatever datasets join several of them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from formats.names import BASE, COMPOSED
from workers.jobs.reports.contamination import SeenExample
from workers.jobs.reports.routing_record import TokenMap
from workers.jobs.reports.verdicts import Scores, Tasks, difference, verdict_of
from xlora_engine.data.answer_scores import AnswerScores
from xlora_engine.measuring.routing import Routing
from xlora_engine.metrics.judgement import MARGIN

#: Held-out examples that were trained on are named one by one, up to this many.
MOST_SEEN_NAMED = 50


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that was measured of one composition."""

    #: Of everything it is compared with, itself included, in the order of the report.
    scores: Scores
    tasks: Tasks
    #: The composition without an expert, by the expert's name.
    without: Scores = field(default_factory=dict)
    #: The composition with half of every scaling, by task.
    halved: Mapping[str, AnswerScores] = field(default_factory=dict)
    routing: Mapping[str, Routing] = field(default_factory=dict)
    samples: Sequence[TokenMap] = ()
    seen: Sequence[SeenExample] = ()
    #: Experts of which it is not on record what they were trained on.
    unknown_training: Collection[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def build_report(measured: Measured, *, seed: int, margin: float = MARGIN) -> dict[str, Any]:
    """The report as JSON types, as kept on the composition's record."""
    scores, tasks = measured.scores, measured.tasks
    verdicts = verdict_of(scores, tasks, margin=margin, seed=seed)
    composed = scores[COMPOSED]

    def changes(changed: Mapping[str, AnswerScores]) -> dict[str, Any]:
        """What each task loses by a change of the composition."""
        return {
            task: {
                "score": _summary(score),
                "change": asdict(
                    difference(score, composed[task], task=task, against=COMPOSED, margin=margin, seed=seed)
                ),
            }
            for task, score in changed.items()
        }

    return {
        "subjects": list(scores),
        "tasks": list(tasks.names),
        "own_expert": dict(tasks.own_expert),
        "margin": margin,
        "scores": {
            subject: {task: _summary(score) for task, score in by_task.items()}
            for subject, by_task in scores.items()
        },
        "differences": [
            asdict(difference(composed[task], other[task], task=task, against=name, margin=margin, seed=seed))
            for task in tasks.names
            for name, other in scores.items()
            if name != COMPOSED
        ],
        "without": {expert: changes(by_task) for expert, by_task in measured.without.items()},
        "reliance": {"halved": changes(measured.halved), "inactive": changes(scores[BASE])},
        "routing": {
            task: {**asdict(routed), "load": routed.load, "dead": list(routed.dead)}
            for task, routed in measured.routing.items()
        },
        "unused": unused(measured.routing),
        "samples": [asdict(sample) for sample in measured.samples],
        "contamination": {
            "count": len(measured.seen),
            "examples": [asdict(seen) for seen in measured.seen[:MOST_SEEN_NAMED]],
            "unknown": sorted(measured.unknown_training),
        },
        "worth_it": all(verdict.kept for verdict in verdicts),
        "verdict": [asdict(verdict) for verdict in verdicts],
        "seconds": {name: round(value, 1) for name, value in measured.seconds.items()},
    }


def unused(routing: Mapping[str, Routing]) -> list[str]:
    """Experts with a negligible share in every layer on every task."""
    dead = [set(routed.dead) for routed in routing.values()]
    return sorted(set.intersection(*dead)) if dead else []


def report_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The scores by name, as `composed/bio/loss`; differences as `composed_less_bio/bio/loss_low`."""
    scores = {
        f"{subject}/{task}/{metric}": float(value)
        for subject, by_task in report["scores"].items()
        for task, score in by_task.items()
        for metric, value in score.items()
    }
    differences = {
        f"{COMPOSED}_less_{row['against']}/{row['task']}/{metric}{suffix}": float(row[metric][bound])
        for row in report["differences"]
        for metric in ("loss", "exact_match")
        for bound, suffix in (("mean", ""), ("low", "_low"), ("high", "_high"))
    }
    routing = {
        f"routing/{task}/{name}": float(value)
        for task, routed in report["routing"].items()
        for name, value in {**routed["load"], "entropy": routed["entropy"]}.items()
    }
    return scores | differences | routing


def _summary(score: AnswerScores) -> dict[str, float | int]:
    return {
        "loss": score.loss,
        "loss_standard_error": score.loss_standard_error,
        "exact_match": score.exact_match,
        "exact_match_standard_error": score.exact_match_standard_error,
        "n": score.n,
    }
