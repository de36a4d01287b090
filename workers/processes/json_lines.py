"""Complete JSON lines from a pipe as they arrive: how a child process reports progress."""

import json
import os
import selectors
import time
from typing import Any


class JsonLines:
    """The reading end of a pipe, which is made non-blocking."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        os.set_blocking(stream.fileno(), False)
        self._selector.register(stream, selectors.EVENT_READ)

    @property
    def have_ended(self) -> bool:
        """Whether the writer has closed its end, or died."""
        return self._stream is None

    def read(self, *, timeout_s: float) -> list[dict[str, Any]]:
        """The lines that have arrived; waits at most `timeout_s` for the first."""
        if self._stream is None:
            time.sleep(timeout_s)
            return []
        if not self._selector.select(timeout_s):
            return []
        content = self._stream.read()
        if not content:
            self._selector.close()
            self._stream = None
            return []
        *complete, self._rest = (self._rest + content).split(b"\n")
        return [json.loads(line) for line in complete if line]
