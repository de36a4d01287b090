"""What the tests of `zoo doctor` share: a socket that never answers, and findings taken apart."""

import socket
from collections.abc import Iterable, Iterator, Sequence

import pytest

from workers.checks.findings import Finding


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a socket that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def only(findings: Iterable[Finding]) -> Finding:
    """The one finding there is."""
    (found,) = findings
    return found


def states(findings: Sequence[Finding]) -> list[str]:
    """How bad each one is."""
    return [finding.state for finding in findings]
