"""`--method all`: every method of the table on the same adapters and data, compared on the same examples.

The one of the lowest loss, mean over the tasks of the report, is kept; the others stand in its report.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from formats.names import of_method
from workers.jobs.reports.composition_scores import (
    Compared,
    Examples,
    Scores,
    Scoring,
    composition_itself,
    merged_beside,
)
from workers.methods.mixing import ComposedModel, Making, mixing_method
from workers.requests.methods import METHODS
from xlora_engine.data.answer_scores import AnswerScores
from xlora_engine.errors import ConfigInvalid


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What came of it."""

    #: The method of the lowest mean loss, and what it made.
    winner: str
    composed: ComposedModel
    #: Of all other methods, by their names among a report's subjects.
    others: Scores
    #: A row for each method of the table, for the report.
    rows: list[dict[str, Any]]


def hold_contest(making: Making, examples: Examples, scoring: Scoring) -> Contest:
    """Make and score all methods; the winner's experts are on the base model afterwards, nobody else's."""
    made: dict[str, ComposedModel] = {}
    seconds: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for method in METHODS:
        missing = _missing(method, making)
        if missing:
            left_out[method] = missing
            continue
        started = time.monotonic()
        try:
            made[method] = mixing_method(method).make(making)
        except ConfigInvalid as refused:  # e.g. a router, and experts of the embeddings
            left_out[method] = str(refused)
            continue
        seconds[method] = time.monotonic() - started
        made[method].model.unload()
    with making.watch.phase("contest"):
        scores = _scores(made, examples, scoring)
    losses = {method: fmean(score.loss for score in scores[method].values()) for method in made}
    winner = min(losses, key=lambda method: losses[method])
    made[winner].model.rewrap()
    return Contest(
        winner=winner,
        composed=made[winner],
        others={of_method(name): by_task for name, by_task in scores.items() if name != winner},
        rows=_rows(losses, scores, seconds, left_out),
    )


def _missing(method: str, making: Making) -> str:
    """What a method lacks here; empty if nothing."""
    row = METHODS[method]
    if row.needs_data and "corpora" not in row.settings and len(making.spec.data) < len(making.parts.domains):
        without = sorted(set(making.parts.domains) - set(making.spec.data))
        return f"it needs data of every adapter's own, and there is none for {', '.join(without)}"
    return ""


def _scores(made: Mapping[str, ComposedModel], examples: Examples, scoring: Scoring) -> Scores:
    """By method; those that are one adapter share their passes."""
    merges = {method: composed for method, composed in made.items() if METHODS[method].is_adapter}
    scores: Scores = {}
    if merges:
        adapters = {method: composed.model.experts[0] for method, composed in merges.items()}
        base = next(iter(merges.values())).model.base
        with merged_beside(base, adapters, examples, whole=True) as compared:
            scores |= scoring.run(compared)
    for method, composed in made.items():
        if method not in merges:
            with _rewrapped(composed):
                own = composition_itself(composed)
                found = scoring.run(
                    Compared(
                        model=composed.model,
                        subjects=(own,),
                        whole={task: {own.name} for task in examples},
                    )
                )
            scores[method] = found[own.name]
    return scores


@contextmanager
def _rewrapped(composed: ComposedModel) -> Iterator[None]:
    composed.model.rewrap()
    try:
        yield
    finally:
        composed.model.unload()


def _rows(
    losses: Mapping[str, float],
    scores: Mapping[str, Mapping[str, AnswerScores]],
    seconds: Mapping[str, float],
    left_out: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The best first; what was left out last."""
    ranked = sorted(losses, key=lambda method: losses[method])
    return [
        *(
            {
                "method": method,
                "mean_loss": losses[method],
                "mean_exact_match": fmean(score.exact_match for score in scores[method].values()),
                "seconds": round(seconds[method], 1),
                "is_adapter": METHODS[method].is_adapter,
            }
            for method in ranked
        ),
        *({"method": method, "left_out": why} for method, why in left_out.items()),
    ]
