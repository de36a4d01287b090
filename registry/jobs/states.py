"""Kinds and states of jobs, and every transition between states. Pure, so that readers need no tables."""

from dataclasses import dataclass

#: The kinds that users can submit; the store accepts any kind.
KINDS = ("train", "eval", "compose")

#: A job in one of these states stays in it, unless it is retried.
TERMINAL_STATES = ("succeeded", "failed", "cancelled")

STATES = ("queued", "running", *TERMINAL_STATES)

#: Why a job ended.
REASONS = (
    "ok",
    "error",  # its code raised an exception
    "poison",  # its process died without a result, too often
    "cuda_oom",
    "host_oom",
    "deadline",
    "disk_full",
    "cancelled",
    "bad_input",  # the request cannot succeed, now or later
    "infra",  # the services around it failed, too often
)


@dataclass(frozen=True)
class Transition:
    """An event of a job: the states in which it may happen, and the state it leads to."""

    sources: tuple[str, ...]
    target: str


#: Event of the journal -> transition; an event that is not listed changes no state.
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
