"""Kinds and states of jobs, and every way from one state to another. Pure: readers do without the tables."""

from dataclasses import dataclass

#: What users ask for; the store takes any kind, whoever works on it.
KINDS = ("train", "eval", "compose")

#: A job in one of these stays in it, unless somebody asks for a retry.
TERMINAL_STATES = ("succeeded", "failed", "cancelled")

STATES = ("queued", "running", *TERMINAL_STATES)

#: Why a job ended.
REASONS = (
    "ok",
    "error",  # its code raised something
    "poison",  # its process died without a word, too often
    "cuda_oom",
    "host_oom",
    "deadline",
    "disk_full",
    "cancelled",
    "bad_input",  # what was asked for cannot be done, today or tomorrow
    "infra",  # the machines around it failed, too often
)


@dataclass(frozen=True)
class Transition:
    """An event in the life of a job: the states it may happen in, and the state it leads to."""

    sources: tuple[str, ...]
    target: str


#: Event of the journal -> what it does; an event that is not here changes no state.
TRANSITIONS = {
    "claimed": Transition(("queued", "running"), "running"),
    "queued": Transition(("running",), "queued"),
    "expired": Transition(("running",), "running"),
    "cancel_requested": Transition(("running",), "running"),
    "succeeded": Transition(("running",), "succeeded"),
    "failed": Transition(("queued", "running"), "failed"),
    "cancelled": Transition(("queued", "running"), "cancelled"),
    "retried": Transition(("failed", "cancelled"), "queued"),
}
