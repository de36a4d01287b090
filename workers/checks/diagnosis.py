"""What `zoo doctor` asks: a table of checks, each bounded in time, and what they found as frozen values.

A check looks at one thing the zoo depends on and changes nothing there. Knows no command line.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from registry.settings import Settings
from workers.checks import artifact_store, broker, database, disk, gpu, tracking
from workers.checks.findings import FAULT, Finding, fault

#: What was looked at -> how; asked side by side, told in this order.
CHECKS: Mapping[str, "Check"] = {
    "database": database.check,
    "broker": broker.check,
    "artifacts": artifact_store.check,
    "mlflow": tracking.check,
    "disk": disk.check,
    "gpu": gpu.check,
}

#: Longer than every time limit inside a check: what takes more is stuck where no limit reaches.
DEADLINE_S = 15.0

_HEALTHY, _FAULTY, _UNREACHABLE = 0, 1, 6

Check = Callable[[Settings], Iterable[Finding]]


def diagnose(
    settings: Settings, *, checks: Mapping[str, Check] = CHECKS, deadline_s: float = DEADLINE_S
) -> tuple[Finding, ...]:
    """Ask every check; one that does not come back in time, or breaks, is itself a finding."""
    inquiries = [_Inquiry(name, check, settings) for name, check in checks.items()]
    ends_at = time.monotonic() + deadline_s
    return tuple(finding for inquiry in inquiries for finding in inquiry.findings(ends_at=ends_at))


def exit_code(findings: Sequence[Finding]) -> int:
    """0 without a fault, 6 if some service cannot be reached, 1 for any other fault."""
    faults = [finding for finding in findings if finding.state == FAULT]
    if not faults:
        return _HEALTHY
    return _UNREACHABLE if any(finding.unreachable for finding in faults) else _FAULTY


@dataclass(frozen=True)
class _Broken:
    error: Exception


class _Inquiry:
    """One check under way, in a thread that the process does not wait for at its end."""

    def __init__(self, name: str, check: Check, settings: Settings) -> None:
        self._name = name
        self._answer: tuple[Finding, ...] | _Broken | None = None
        self._thread = threading.Thread(target=self._ask, args=(check, settings), daemon=True)
        self._thread.start()
        self._started_at = time.monotonic()

    def findings(self, *, ends_at: float) -> Iterator[Finding]:
        """What it found; waits for it until `ends_at` of the monotonic clock."""
        self._thread.join(max(0.0, ends_at - time.monotonic()))
        answer = self._answer
        if answer is None:
            waited_s = time.monotonic() - self._started_at
            yield fault(
                self._name,
                f"does not answer within {waited_s:.0f} s",
                mend="restart what hangs, then: zoo doctor",
                unreachable=True,
            )
        elif isinstance(answer, _Broken):
            said = f"{type(answer.error).__name__}: {answer.error}"
            yield fault(self._name, f"cannot be checked: {said}", mend="ZOO_DEBUG=1 zoo doctor")
        else:
            yield from answer

    def _ask(self, check: Check, settings: Settings) -> None:
        try:
            self._answer = tuple(check(settings))
        except Exception as error:  # one broken check must not hide what the others find
            self._answer = _Broken(error)
