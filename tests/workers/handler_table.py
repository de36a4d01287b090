"""The handlers of workers that tests start: the function of `tests.workers.handlers` in TEST_HANDLER."""

import os

HANDLERS = {"train": f"tests.workers.handlers:{os.environ.get('TEST_HANDLER', 'succeed')}"}
