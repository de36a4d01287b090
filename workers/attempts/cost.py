"""What an attempt cost: seconds by phase, and the most memory that its process held."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_KILOBYTES_PER_MEGABYTE = 1024
_BYTES_PER_MEGABYTE = 1024**2
#: The unit of `ru_maxrss` is a kilobyte, but on macOS a byte.
_RSS_PER_MEGABYTE = _BYTES_PER_MEGABYTE if sys.platform == "darwin" else _KILOBYTES_PER_MEGABYTE


@dataclass
class PhaseClock:
    """Seconds spent in each phase, from one report of progress to the next."""

    now: Callable[[], float] = time.monotonic
    seconds: dict[str, float] = field(default_factory=dict)
    _phase: str | None = None
    _since: float = 0.0

    def enter(self, phase: str | None) -> None:
        """What is done from now on; None: nothing."""
        at = self.now()
        if self._phase is not None:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + at - self._since
        self._phase, self._since = phase, at

    def metrics(self) -> dict[str, float]:
        """Seconds by phase as metrics, `seconds/training`, and in total."""
        self.enter(self._phase)
        by_phase = {f"seconds/{phase}": round(seconds, 3) for phase, seconds in self.seconds.items()}
        return {**by_phase, "seconds/total": round(sum(self.seconds.values()), 3)} if by_phase else {}


def peak_memory() -> dict[str, float]:
    """The most memory of this process so far as metrics, and of its GPU where it has used one."""
    peaks = {"memory/peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_PER_MEGABYTE}
    torch = sys.modules.get("torch")  # importing it takes seconds, and who has not used it has no figures
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["memory/peak_gpu_mb"] = torch.cuda.max_memory_allocated() / _BYTES_PER_MEGABYTE
    return {name: round(value, 1) for name, value in peaks.items()}
