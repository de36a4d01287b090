"""Tables of a job's life: its transitions, and what ends an attempt."""

from collections.abc import Mapping

from docs.generated.errors import TextMissing
from docs.generated.markdown import table
from registry.jobs.budgets import BUDGETS
from registry.jobs.states import REASONS, TRANSITIONS

#: Event of the journal -> what it means.
EVENTS: Mapping[str, str] = {
    "claimed": "A worker takes the job: the attempt is counted and the fence raised.",
    "queued": "The job goes back to the queue: its worker was asked to end, or its attempt may be repeated.",
    "expired": "The lease ran out; another worker may claim the job.",
    "cancel_requested": "A user ran `zoo jobs cancel`; the job process saves a checkpoint and ends.",
    "succeeded": "The result is recorded, in one transaction with this event.",
    "failed": "No further attempt is allowed, or the deadline is past.",
    "cancelled": "The job ended because it was asked to.",
    "retried": "A user ran `zoo jobs retry`.",
}

#: Reason of a job's end -> what happened.
MEANINGS: Mapping[str, str] = {
    "ok": "The job ended with a result.",
    "error": "Its code raised an error.",
    "poison": "Its job process was killed or crashed without a word, at every attempt.",
    "cuda_oom": "The GPU's memory did not suffice, even with a small micro-batch.",
    "host_oom": "The machine's memory did not suffice, even with a small micro-batch.",
    "deadline": "The deadline passed.",
    "disk_full": "A disk was full.",
    "cancelled": "A user asked it to end.",
    "bad_input": "What was asked for cannot be done, at any time.",
    "infra": "Workers or services failed too often.",
}


def transition_table() -> str:
    """Event, states it may happen in, and the state it leads to.

    Raises:
        TextMissing: an event has no text.
    """
    rows = [
        (f"`{event}`", ", ".join(transition.sources), transition.target, _text(EVENTS, event))
        for event, transition in TRANSITIONS.items()
    ]
    return table(("Event", "From", "To", "Meaning"), rows)


def reason_table() -> str:
    """Reason a job ended for, and how often its attempt is repeated first.

    Raises:
        TextMissing: a reason has no text.
    """
    rows = [(f"`{reason}`", _text(MEANINGS, reason), _repeated(reason)) for reason in REASONS]
    return table(("Reason", "Meaning", "Repeated first"), rows)


def _repeated(reason: str) -> str:
    budget = BUDGETS.get(reason)
    if budget is None:
        return "never"
    often = "3 attempts in all" if budget.allowed is None else f"{budget.allowed} times"
    pause = (
        f"after {budget.first_pause_s:g} s, then twice as long each time"
        if budget.first_pause_s
        else "at once"
    )
    return f"{often}, {pause}"


def _text(texts: Mapping[str, str], name: str) -> str:
    if name not in texts:
        raise TextMissing(f"docs/generated/jobs.py says nothing of {name!r}")
    return texts[name]
