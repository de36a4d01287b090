"""A service that hangs, for the tests of `zoo doctor`."""

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """The port of a socket that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
