"""Subjects against a baseline, metric by metric, on the same examples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workers.jobs.evaluation.measuring import Measurement
from workers.jobs.evaluation.questions import SEED
from xlora_engine.metrics.judgement import margin_of, verdict
from xlora_engine.metrics.metric import Metric, compared
from xlora_engine.metrics.table import METRICS

#: Measurements by subject, then by task.
Measurements = Mapping[str, Mapping[str, Measurement]]


def differences(measured: Measurements, *, baseline: str) -> list[dict[str, Any]]:
    """Every other subject's values less the baseline's, with their intervals, as JSON types."""
    return [
        difference
        for subject, by_task in measured.items()
        if subject != baseline
        for task, ours in by_task.items()
        for difference in _on_task(subject, task, ours, measured[baseline][task], baseline)
    ]


def _on_task(
    subject: str, task: str, ours: Measurement, theirs: Measurement, baseline: str
) -> Iterator[dict[str, Any]]:
    for metric in _shared(ours, theirs):
        found = compared(metric, ours.examples, theirs.examples, seed=SEED)
        if found is None:
            continue
        interval, n = found
        margin = margin_of(metric, theirs.values[metric.name].value)
        yield {
            "subject": subject,
            "against": baseline,
            "task": task,
            "metric": metric.name,
            "difference": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "n": n,
            "margin": margin,
            "verdict": verdict(metric, interval, margin=margin),
        }


def _shared(ours: Measurement, theirs: Measurement) -> Sequence[Metric]:
    """Metrics that both have a value of; of other tokens, those that count tokens say nothing."""
    same_tokens = [one.tokens for one in ours.examples] == [one.tokens for one in theirs.examples]
    shared = [METRICS[name] for name in ours.values if name in theirs.values]
    return [metric for metric in shared if same_tokens or not metric.is_per_token]
