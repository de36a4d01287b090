"""An alias that moves only to what is no worse: decided by the paired comparison, with the reason kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from registry.entities import Alias, Job
from registry.nouns.versioned import Versioned
from registry.service import Registry
from workers.errors import AliasKept, SpecInvalid
from workers.requests.evaluation import AskedTask, evaluation_request
from workers.requests.specs import EvalSpec
from workers.requests.subjects import subject_of
from xlora_engine.measuring.bootstrap import Interval
from xlora_engine.metrics.judgement import (
    BETTER,
    CANNOT_TELL,
    MARGIN,
    NO_WORSE,
    WORSE,
    margin_of,
    verdict,
)
from xlora_engine.metrics.table import METRICS

#: The first of them that was measured has to be no worse; of the others, none may be worse.
_DECIDING = ("accuracy", "loss", "bits_per_byte")


@dataclass(frozen=True, kw_only=True)
class AskedMove:
    """An alias to be pointed to a version unless that is worse than another."""

    name: str
    alias: str
    version: int
    #: An alias or version of the same name, or another's reference.
    unless_worse_than: str
    tasks: Sequence[AskedTask]
    margin: float = MARGIN
    limit: int | None = None
    #: The version that the alias must point to, 0 for none.
    expected: int | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether something is no worse than another, and why."""

    is_no_worse: bool
    sentence: str


def move_unless_worse(
    registry: Registry, noun: Versioned[Any], asked: AskedMove, *, run: Callable[[EvalSpec], Job | None]
) -> Alias:
    """Measure both versions by the job that `run` carries out, then move the alias, or raise and leave it.

    Raises:
        AliasKept: the version is worse, or nothing can be told of so few examples.
        AliasMoved: another process moved the alias meanwhile; it stays where that put it.
        NotFound: there is no such name, version, alias or dataset.
    """
    against = asked.unless_worse_than
    other = noun.get(against if "@" in against else f"{asked.name}@{against}")
    record = noun.get(f"{asked.name}@{asked.version}")
    if record.reference == other.reference:
        raise SpecInvalid(
            "version", f"another than {other.reference}, which it is compared with", asked.version
        )
    spec = evaluation_request(
        registry,
        subjects=[subject_of(record)],
        tasks=asked.tasks,
        baseline=subject_of(other),
        limit=asked.limit,
    )
    job = run(spec)
    if job is None:
        raise AliasKept(
            f"{asked.name}@{asked.alias}", record.reference, other.reference, "nothing was measured"
        )
    decision = decided(job.outcome, subject=subject_of(record), margin=asked.margin)
    if not decision.is_no_worse:
        raise AliasKept(f"{asked.name}@{asked.alias}", record.reference, other.reference, decision.sentence)
    # What was compared with is what the alias moves away from.
    expected = other.version if against == asked.alias and asked.expected is None else asked.expected
    why = f"{decision.sentence}; job {job.id}"
    return noun.set_alias(
        asked.name,
        asked.alias,
        asked.version,
        expected=expected,
        reason=why if asked.reason is None else f"{asked.reason}; {why}",
    )


def decided(outcome: Mapping[str, Any], *, subject: str, margin: float = MARGIN) -> Decision:
    """Whether an eval job with a baseline found a subject no worse on every task."""
    by_task: dict[str, dict[str, Mapping[str, Any]]] = {}
    for difference in outcome["differences"]:
        if difference["subject"] == subject:
            by_task.setdefault(difference["task"], {})[difference["metric"]] = difference
    decisions = list(_decisions(by_task, outcome["scores"], margin))
    sentences = "; ".join(decision.sentence for decision in decisions)
    holds = bool(decisions) and all(decision.is_no_worse for decision in decisions)
    return Decision(is_no_worse=holds, sentence=sentences or "nothing that both have was measured")


def _decisions(
    by_task: Mapping[str, Mapping[str, Mapping[str, Any]]], scores: Mapping[str, Any], margin: float
) -> Iterator[Decision]:
    for task, differences in by_task.items():
        deciding = next((name for name in _DECIDING if name in differences), None)
        if deciding is None:
            continue
        words = {
            name: _word(difference, scores[difference["against"]][task][name], margin)
            for name, difference in differences.items()
        }
        worse = [name for name, word in words.items() if word == WORSE and METRICS[name].is_share]
        shown = worse[0] if worse and words[deciding] != WORSE else deciding
        yield Decision(
            is_no_worse=words[deciding] in (BETTER, NO_WORSE) and not worse,
            sentence=_sentence(differences[shown], scores, words[shown], margin),
        )


def _word(difference: Mapping[str, Any], other: float, margin: float) -> str:
    metric = METRICS[difference["metric"]]
    interval = Interval(mean=difference["difference"], low=difference["low"], high=difference["high"])
    return verdict(metric, interval, margin=margin_of(metric, other, margin=margin))


def _sentence(difference: Mapping[str, Any], scores: Mapping[str, Any], word: str, margin: float) -> str:
    metric, task, against = difference["metric"], difference["task"], difference["against"]
    ours, theirs = (scores[subject][task][metric] for subject in (difference["subject"], against))
    allowed = margin_of(METRICS[metric], theirs, margin=margin)
    return (
        f"{word} {'against' if word == CANNOT_TELL else 'than'} {against} on {task}: {metric} {ours:.4g}"
        f" against {theirs:.4g} (difference {difference['low']:+.4f} to {difference['high']:+.4f},"
        f" margin {allowed:.4f}, n = {difference['n']})"
    )
