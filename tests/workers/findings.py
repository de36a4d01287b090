"""Findings taken apart."""

from collections.abc import Iterable, Sequence

from workers.checks.findings import Finding


def only(findings: Iterable[Finding]) -> Finding:
    """The one finding there is."""
    (found,) = findings
    return found


def states(findings: Sequence[Finding]) -> list[str]:
    """How bad each one is."""
    return [finding.state for finding in findings]
