"""What a check found: a fact about one thing, how bad it is, and the command that mends it."""

from dataclasses import dataclass

OK, WARNING, FAULT = "ok", "warning", "fault"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact; `mend` is what to type where there is something to mend."""

    #: What was looked at: database, broker, artifacts, mlflow, disk, gpu.
    check: str
    #: ok, warning or fault.
    state: str
    finding: str
    mend: str | None = None
    #: Whether the fault is a service that does not answer, which has an exit code of its own.
    unreachable: bool = False


def ok(check: str, finding: str) -> Finding:
    """All is well."""
    return Finding(check=check, state=OK, finding=finding)


def warning(check: str, finding: str, *, mend: str) -> Finding:
    """It works, but not as well or as safely as it should."""
    return Finding(check=check, state=WARNING, finding=finding, mend=mend)


def fault(check: str, finding: str, *, mend: str, unreachable: bool = False) -> Finding:
    """Jobs will fail or wait until it is mended."""
    return Finding(check=check, state=FAULT, finding=finding, mend=mend, unreachable=unreachable)
