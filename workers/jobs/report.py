"""Was composing worth it? The report of a composition: pure decisions from measured scores.

Subjects are `base`, every expert by name, `uniform` (all experts at 1/n) and `composed`; tasks are
the domains and whatever datasets join several of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from formats.names import BASE, COMPOSED, UNIFORM
from xlora_engine.data.answer_scores import AnswerScores
from xlora_engine.measuring.bootstrap import paired_difference
from xlora_engine.measuring.routing import Routing

#: A composition keeps a domain if its loss is at most this many times that of the domain's own adapter,
#: and its exact match at most this much below the best expert's.
LOSS_RATIO_LIMIT = 1.02
#: Nats a token that a composition's loss may be above the domain's own adapter's, where that is nearly
#: zero and a ratio says nothing.
LOSS_MARGIN = 0.001
EXACT_MATCH_MARGIN = 0.02

#: Scores of one subject on one task.
Scores = Mapping[str, Mapping[str, AnswerScores]]


@dataclass(frozen=True, kw_only=True)
class DomainVerdict:
    """One sentence of the verdict, with the figures behind it."""

    task: str
    kept: bool
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Which tasks a report is over."""

    #: domain -> the expert trained for it
    own_expert: Mapping[str, str]
    #: tasks that join domains, none of which has an expert of its own
    mixed: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All tasks, domains first."""
        return (*self.own_expert, *self.mixed)


def build_report(
    scores: Scores, tasks: Tasks, *, routing: Mapping[str, Routing], seconds: Mapping[str, float], seed: int
) -> dict[str, Any]:
    """The report as JSON types, as kept on the composition's record."""
    verdicts = verdict_of(scores, tasks)
    return {
        "subjects": list(scores),
        "tasks": list(tasks.names),
        "own_expert": dict(tasks.own_expert),
        "scores": {
            subject: {task: _summary(score) for task, score in by_task.items()}
            for subject, by_task in scores.items()
        },
        "differences": _differences(scores, tasks, seed=seed),
        "routing": {
            task: {**asdict(measured), "load": measured.load, "dead": list(measured.dead)}
            for task, measured in routing.items()
        },
        "worth_it": all(verdict.kept for verdict in verdicts),
        "verdict": [asdict(verdict) for verdict in verdicts],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def verdict_of(scores: Scores, tasks: Tasks) -> list[DomainVerdict]:
    """One a task: is the composition at least as good as what it was made from?"""
    domains = [_of_domain(scores, domain, expert) for domain, expert in tasks.own_expert.items()]
    return domains + [_of_mixed(scores, task, list(tasks.own_expert.values())) for task in tasks.mixed]


def _of_domain(scores: Scores, domain: str, expert: str) -> DomainVerdict:
    composed, own = scores[COMPOSED][domain], scores[expert][domain]
    best = max(scores[name][domain].exact_match for name in scores if name not in (BASE, UNIFORM, COMPOSED))
    keeps_loss = composed.loss <= max(LOSS_RATIO_LIMIT * own.loss, own.loss + LOSS_MARGIN)
    keeps_match = composed.exact_match >= best - EXACT_MATCH_MARGIN
    return DomainVerdict(
        task=domain,
        kept=keeps_loss and keeps_match,
        sentence=(
            f"{domain}: loss {composed.loss:.3f}, {_compared(composed.loss, own.loss)} of {expert} alone"
            f" ({'keeps' if keeps_loss else 'WORSE than'} the limit of {_limit(own.loss)});"
            f" exact match {composed.exact_match:.0%}, best expert {best:.0%}"
            f"{'' if keeps_match else ' (WORSE)'}"
        ),
    )


def _compared(loss: float, own: float) -> str:
    """By a ratio, or by the difference where a ratio of two losses says nothing."""
    if _is_nearly_zero(own):
        return f"{loss - own:+.4f} against that ({own:.4f})"
    return f"{loss / own:.3f} times that"


def _limit(own: float) -> str:
    return f"+{LOSS_MARGIN}" if _is_nearly_zero(own) else str(LOSS_RATIO_LIMIT)


def _is_nearly_zero(own: float) -> bool:
    """Whether the absolute margin is wider than the relative one."""
    return own * (LOSS_RATIO_LIMIT - 1) < LOSS_MARGIN


def _of_mixed(scores: Scores, task: str, experts: Sequence[str]) -> DomainVerdict:
    composed = scores[COMPOSED][task]
    best = min(experts, key=lambda name: scores[name][task].loss)
    kept = composed.loss < scores[best][task].loss
    return DomainVerdict(
        task=task,
        kept=kept,
        sentence=(
            f"{task}: loss {composed.loss:.3f}, {'below' if kept else 'NOT below'} the best single expert's"
            f" {scores[best][task].loss:.3f} ({best}); exact match {composed.exact_match:.0%}"
        ),
    )


def _differences(scores: Scores, tasks: Tasks, *, seed: int) -> list[dict[str, Any]]:
    """Composed less every other subject, example by example, with 95 % bootstrap intervals."""
    differences = []
    for task in tasks.names:
        composed = scores[COMPOSED][task]
        for subject in scores:
            if subject == COMPOSED:
                continue
            other = scores[subject][task]
            loss = paired_difference(composed.example_losses, other.example_losses, seed=seed)
            match = paired_difference(composed.example_matches, other.example_matches, seed=seed)
            differences.append(
                {"task": task, "against": subject, "loss": asdict(loss), "exact_match": asdict(match)}
            )
    return differences


def _summary(score: AnswerScores) -> dict[str, float | int]:
    return {
        "loss": score.loss,
        "loss_standard_error": score.loss_standard_error,
        "exact_match": score.exact_match,
        "exact_match_standard_error": score.exact_match_standard_error,
        "n": score.n,
    }
