"""The verdict on a composition, task by task: pure decisions from scores of the same examples.

The composition is compared with another subject by the paired bootstrap. Its interval lies below the margin,
above it, or on both sides, and then nothing can be told.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from formats.names import BASE, COMPOSED, UNIFORM, is_method
from xlora_engine.data.answer_scores import AnswerScores
from xlora_engine.measuring.bootstrap import Interval, paired_difference
from xlora_engine.metrics.judgement import CANNOT_TELL, LEAST_LOSS_MARGIN, MARGIN, WORSE, verdict_word

#: Scores by subject, then by task.
Scores = Mapping[str, Mapping[str, AnswerScores]]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One subject less another on the same examples of a task."""

    task: str
    against: str
    n: int
    #: Loss: below zero the first is better.
    loss: Interval
    loss_margin: float
    #: Exact match: above zero the first is better.
    exact_match: Interval
    verdict: str


@dataclass(frozen=True, kw_only=True)
class TaskVerdict:
    """The composition against the best single expert of a task."""

    task: str
    #: `better`, `no worse`, `worse` or `cannot tell`, and of how many examples.
    verdict: str
    against: str
    n: int
    #: Whether it is as good as it was to be, by the scores themselves where the interval cannot tell.
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


def difference(
    ours: AnswerScores, theirs: AnswerScores, *, task: str, against: str, margin: float, seed: int
) -> Difference:
    """`ours` less `theirs` on the examples that both were scored on, the first of the task."""
    n = min(ours.n, theirs.n)
    a, b = ours.first(n), theirs.first(n)
    loss = paired_difference(a.example_losses, b.example_losses, seed=seed, weights=a.example_tokens)
    match = paired_difference(a.example_matches, b.example_matches, seed=seed)
    loss_margin = max(margin * b.loss, LEAST_LOSS_MARGIN)
    said = verdict_word(loss, loss_margin)
    lost = Interval(mean=-match.mean, low=-match.high, high=-match.low)
    return Difference(
        task=task,
        against=against,
        n=n,
        loss=loss,
        loss_margin=loss_margin,
        exact_match=match,
        verdict=WORSE if verdict_word(lost, margin) == WORSE else said,
    )


def verdict_of(scores: Scores, tasks: Tasks, *, margin: float = MARGIN, seed: int = 0) -> list[TaskVerdict]:
    """One a task: is the composition at least as good as the best of what it was made from?"""
    return [_of_task(scores, task, tasks, margin=margin, seed=seed) for task in tasks.names]


def best_expert(scores: Scores, task: str) -> str:
    """The expert of the lowest loss among those that were scored on all examples of a task."""
    n = scores[COMPOSED][task].n
    experts = [name for name in scores if name not in (BASE, UNIFORM, COMPOSED) and not is_method(name)]
    whole = [name for name in experts if scores[name][task].n == n]
    return min(whole, key=lambda name: scores[name][task].loss)


def _of_task(scores: Scores, task: str, tasks: Tasks, *, margin: float, seed: int) -> TaskVerdict:
    best = best_expert(scores, task)
    composed, other = scores[COMPOSED][task], scores[best][task]
    found = difference(composed, other, task=task, against=best, margin=margin, seed=seed)
    if task in tasks.mixed:
        kept = composed.loss < other.loss
    else:
        keeps_loss = composed.loss - other.loss <= found.loss_margin
        kept = keeps_loss and composed.exact_match >= other.exact_match - margin
    return TaskVerdict(
        task=task,
        verdict=found.verdict,
        against=best,
        n=found.n,
        kept=kept and found.verdict != WORSE,
        sentence=_sentence(found, composed, other, own=tasks.own_expert.get(task)),
    )


def _sentence(found: Difference, composed: AnswerScores, other: AnswerScores, *, own: str | None) -> str:
    said = f"{CANNOT_TELL} with n = {found.n}" if found.verdict == CANNOT_TELL else found.verdict
    which = f"{found.against} alone" if found.against == own else f"the best single expert, {found.against}"
    compared = "against" if found.verdict == CANNOT_TELL else "than"
    return (
        f"{found.task}: {said} {compared} {which}: loss {composed.loss:.3f}, {_compared(composed, other)}"
        f" (difference {found.loss.low:+.4f} to {found.loss.high:+.4f}, margin {found.loss_margin:.4f});"
        f" exact match {composed.exact_match:.0%} against {other.exact_match:.0%}"
    )


def _compared(composed: AnswerScores, other: AnswerScores) -> str:
    """By a ratio, or by the difference where a ratio of two losses says nothing."""
    if other.loss * MARGIN < LEAST_LOSS_MARGIN:
        return f"{composed.loss - other.loss:+.4f} against {other.loss:.4f}"
    return f"{composed.loss / other.loss:.3f} times {other.loss:.3f}"
