"""The handlers of workers that tests start: what TEST_HANDLER names in `tests.workers.handlers`."""

import os

HANDLERS = {"train": f"tests.workers.handlers:{os.environ.get('TEST_HANDLER', 'succeed')}"}
