"""How often a job may be started again, by what ended its attempt, and after what pause. Pure.

An attempt is counted when it is claimed, before its code runs. One that ends for a cause with a budget of its
own is counted there instead; one that ends for a cause without any ends the job.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The column that counts the ends of one class, how many are allowed, and the pauses between."""

    counter: str
    #: None: the job's own `max_attempts`.
    allowed: int | None
    first_pause_s: float
    longest_pause_s: float = 60.0

    def pause_s(self, count: int) -> float:
        """Doubles from one end to the next, up to the longest."""
        return float(min(self.longest_pause_s, self.first_pause_s * 2 ** min(count - 1, 32)))


#: A worker that dies, or loses its lease, takes down attempts that did nothing wrong.
LOST_ATTEMPTS_ALLOWED = 10
#: Each halves the micro-batch.
MEMORY_CUTS_ALLOWED = 4

_MEMORY = Budget(counter="memory_cuts", allowed=MEMORY_CUTS_ALLOWED, first_pause_s=0.0)

#: Reason -> budget; what is not here would end the same way another time.
BUDGETS = {
    "poison": Budget(counter="attempt", allowed=None, first_pause_s=1.0),
    "infra": Budget(counter="lost_attempts", allowed=LOST_ATTEMPTS_ALLOWED, first_pause_s=2.0),
    "cuda_oom": _MEMORY,
    "host_oom": _MEMORY,
}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a job has used up when an attempt ends; `attempt` counts the one that ends."""

    attempt: int
    max_attempts: int
    lost_attempts: int
    memory_cuts: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of the job: another attempt after a pause, with these counters, or the end."""

    goes_on: bool
    counters: dict[str, int]
    pause_s: float = 0.0


def judge(standing: Standing, reason: str | None) -> Verdict:
    """Whether a job goes on after an attempt that ended for `reason`; None: nothing is held against it."""
    refunded = standing.attempt - 1
    if reason is None:
        return Verdict(goes_on=True, counters={"attempt": refunded})
    budget = BUDGETS.get(reason)
    if budget is None:
        return Verdict(goes_on=False, counters={})
    if budget.allowed is None:
        goes_on = standing.attempt < standing.max_attempts
        return Verdict(goes_on=goes_on, counters={}, pause_s=budget.pause_s(standing.attempt))
    count = getattr(standing, budget.counter) + 1
    if count > budget.allowed:
        return Verdict(goes_on=False, counters={})
    return Verdict(
        goes_on=True,
        counters={"attempt": refunded, budget.counter: count},
        pause_s=budget.pause_s(count),
    )
