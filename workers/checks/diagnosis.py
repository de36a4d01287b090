"""The diagnosis of `zoo doctor`: a table of checks, each with a time limit, and their findings.

A check examines one dependency of the zoo and changes nothing there. Knows no command line.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from registry.settings import Settings
from workers.checks import artifact_store, broker, database, disk, gpu, tracking
from workers.checks.findings import FAULT, Finding, fault

#: Name -> check; they run in parallel and report in this order.
CHECKS: Mapping[str, "Check"] = {
    "database": database.check,
    "broker": broker.check,
    "artifacts": artifact_store.check,
    "mlflow": tracking.check,
    "disk": disk.check,
    "gpu": gpu.check,
}

#: Longer than every time limit inside a check, for a check that hangs where no limit applies.
DEADLINE_S = 15.0

_HEALTHY, _FAULTY, _UNREACHABLE = 0, 1, 6

Check = Callable[[Settings], Iterable[Finding]]


def diagnose(
    settings: Settings, *, checks: Mapping[str, Check] = CHECKS, deadline_s: float = DEADLINE_S
) -> tuple[Finding, ...]:
    """Run every check; one that does not return in time, or raises, is itself a fault."""
    running = [_RunningCheck(name, check, settings) for name, check in checks.items()]
    ends_at = time.monotonic() + deadline_s
    return tuple(finding for check in running for finding in check.findings(ends_at=ends_at))


def exit_code(findings: Sequence[Finding]) -> int:
    """0 without a fault, 6 if some service cannot be reached, 1 for any other fault."""
    faults = [finding for finding in findings if finding.state == FAULT]
    if not faults:
        return _HEALTHY
    return _UNREACHABLE if any(finding.unreachable for finding in faults) else _FAULTY


@dataclass(frozen=True)
class _Broken:
    error: Exception


class _RunningCheck:
    """One check in a daemon thread, for which the process does not wait at its end."""

    def __init__(self, name: str, check: Check, settings: Settings) -> None:
        self._name = name
        self._result: tuple[Finding, ...] | _Broken | None = None
        self._thread = threading.Thread(target=self._run, args=(check, settings), daemon=True)
        self._thread.start()
        self._started_at = time.monotonic()

    def findings(self, *, ends_at: float) -> Iterator[Finding]:
        """The check's findings; waits for them until `ends_at` of the monotonic clock."""
        self._thread.join(max(0.0, ends_at - time.monotonic()))
        result = self._result
        if result is None:
            waited_s = time.monotonic() - self._started_at
            yield fault(
                self._name,
                f"does not answer within {waited_s:.0f} s",
                fix="restart what hangs, then: zoo doctor",
                unreachable=True,
            )
        elif isinstance(result, _Broken):
            reason = f"{type(result.error).__name__}: {result.error}"
            yield fault(self._name, f"cannot be checked: {reason}", fix="ZOO_DEBUG=1 zoo doctor")
        else:
            yield from result

    def _run(self, check: Check, settings: Settings) -> None:
        try:
            self._result = tuple(check(settings))
        except Exception as error:  # a check that raises must not hide the others' findings
            self._result = _Broken(error)
