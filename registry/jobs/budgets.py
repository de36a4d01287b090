"""How often a job is retried, by the reason why its attempt ended, and after which pause. Pure.

An attempt is counted when it is claimed, before its code runs. If it ends for a reason with a budget of its
own, it is counted there instead; if it ends for a reason without a budget, the job ends.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The column that counts the attempts that ended for a reason, how many are allowed, and the pauses."""

    counter: str
    #: None: the job's own `max_attempts`.
    allowed: int | None
    first_pause_s: float
    longest_pause_s: float = 60.0

    def pause_s(self, count: int) -> float:
        """The pause after the `count`th such end; doubles each time, up to the longest."""
        return float(min(self.longest_pause_s, self.first_pause_s * 2 ** min(count - 1, 32)))


#: Separate from attempts, because a job is not at fault when its worker dies or loses its lease.
LOST_ATTEMPTS_ALLOWED = 10
#: Each one halves the micro-batch.
MEMORY_CUTS_ALLOWED = 4

_MEMORY = Budget(counter="memory_cuts", allowed=MEMORY_CUTS_ALLOWED, first_pause_s=0.0)

#: Reason -> budget; a reason that is not listed would end the next attempt too.
BUDGETS = {
    "poison": Budget(counter="attempt", allowed=None, first_pause_s=1.0),
    "infra": Budget(counter="lost_attempts", allowed=LOST_ATTEMPTS_ALLOWED, first_pause_s=2.0),
    "cuda_oom": _MEMORY,
    "host_oom": _MEMORY,
}


@dataclass(frozen=True, kw_only=True)
class AttemptCounters:
    """The counters of a job when an attempt ends; `attempt` includes the one that ends."""

    attempt: int
    max_attempts: int
    lost_attempts: int
    memory_cuts: int


@dataclass(frozen=True, kw_only=True)
class RetryDecision:
    """Whether another attempt follows, after which pause, and the job's new counters."""

    retry: bool
    counters: dict[str, int]
    pause_s: float = 0.0


def retry_decision(counters: AttemptCounters, reason: str | None) -> RetryDecision:
    """Whether a job is retried after an attempt that ended for `reason`; None refunds the attempt."""
    refunded = counters.attempt - 1
    if reason is None:
        return RetryDecision(retry=True, counters={"attempt": refunded})
    budget = BUDGETS.get(reason)
    if budget is None:
        return RetryDecision(retry=False, counters={})
    if budget.allowed is None:
        retry = counters.attempt < counters.max_attempts
        return RetryDecision(retry=retry, counters={}, pause_s=budget.pause_s(counters.attempt))
    count = getattr(counters, budget.counter) + 1
    if count > budget.allowed:
        return RetryDecision(retry=False, counters={})
    return RetryDecision(
        retry=True,
        counters={"attempt": refunded, budget.counter: count},
        pause_s=budget.pause_s(count),
    )
