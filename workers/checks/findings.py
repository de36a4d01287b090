"""A finding of a check: a fact about one service, its severity, and the command that fixes it."""

from dataclasses import dataclass

OK, WARNING, FAULT = "ok", "warning", "fault"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact; `fix` is the command or instruction for one that is not ok."""

    #: Name of the check: database, broker, artifacts, mlflow, disk, gpu.
    check: str
    #: ok, warning or fault.
    state: str
    finding: str
    fix: str | None = None
    #: Whether the fault is a service that does not answer, for which the exit code is 6.
    unreachable: bool = False


def ok(check: str, finding: str) -> Finding:
    """A finding without a fault."""
    return Finding(check=check, state=OK, finding=finding)


def warning(check: str, finding: str, *, fix: str) -> Finding:
    """A finding about something that works, but not as well or as safely as it should."""
    return Finding(check=check, state=WARNING, finding=finding, fix=fix)


def fault(check: str, finding: str, *, fix: str, unreachable: bool = False) -> Finding:
    """A finding because of which jobs fail or wait until it is fixed."""
    return Finding(check=check, state=FAULT, finding=finding, fix=fix, unreachable=unreachable)
