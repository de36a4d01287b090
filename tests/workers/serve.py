"""A worker without a broker, as `zoo worker` is, with the handlers of `handler_table`."""

import os
import sys

from registry.settings import Settings
from tests.workers.handler_table import HANDLERS
from workers.worker.loop import serve_from_database

if __name__ == "__main__":
    serve_from_database(
        Settings.from_env(os.environ),
        sys.argv[1:] or ["cpu"],
        say=lambda text: print(text, file=sys.stderr, flush=True),  # noqa: T201
        handlers=HANDLERS,
    )
