"""Findings taken apart."""

from collections.abc import Iterable, Sequence

from workers.checks.findings import Finding


def only(findings: Iterable[Finding]) -> Finding:
    """The only finding."""
    (found,) = findings
    return found


def states(findings: Sequence[Finding]) -> list[str]:
    """The state of each finding."""
    return [finding.state for finding in findings]
