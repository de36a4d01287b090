"""Where a job goes: its queue, its priority there, and how long it may take."""

import os
import re
from dataclasses import dataclass

from registry.entities import Worker
from registry.service import Registry
from workers.errors import SpecInvalid
from workers.processes.gpus import visible_gpus

#: One for each capability that a worker can have.
QUEUES = ("gpu", "cpu")
#: A worker that was not seen for longer is not counted on.
WORKER_SEEN_WITHIN_S = 30.0

LONGEST_DEADLINE_S = 366 * 86_400.0
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Queue, priority (higher first, 0 if left out) and deadline in seconds from submission.

    A queue that is left out is `default_queue`.
    """

    queue: str | None = None
    priority: int | None = None
    deadline_s: float | None = None


def default_queue(registry: Registry) -> str:
    """`gpu` where this machine has one or a worker serves that queue, else `cpu`."""
    return "gpu" if visible_gpus(os.environ) or is_served(registry, "gpu") else "cpu"


def is_served(registry: Registry, queue: str, *, processes: int = 1) -> bool:
    """Whether a worker that was seen recently takes jobs of that many processes from the queue."""
    seen = registry.workers.list(seen_within_s=WORKER_SEEN_WITHIN_S)
    return any(queue in worker.queues and _offers(worker, processes) for worker in seen)


def _offers(worker: Worker, processes: int) -> bool:
    return worker.gpu is None or processes <= len(worker.gpu.split(","))


def seconds(text: str, *, field: str = "deadline") -> float:
    """What `90s`, `30m`, `2h` or `1d` mean; a bare number is seconds. `field` names it in a refusal.

    Raises:
        SpecInvalid: it is none of these, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    value = float(found[1]) * _UNITS_S[found[2] or "s"] if found else 0.0
    if not 0 < value <= LONGEST_DEADLINE_S:
        raise SpecInvalid(field, allowed="a time such as 90s, 30m, 2h or 1d, at most a year", value=text)
    return value
