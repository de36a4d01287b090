"""The Celery application with the tests' handlers: `celery -A tests.workers.celery_app worker`."""

import os

from registry.settings import Settings
from tests.workers.handler_table import HANDLERS
from workers.broker.fallback import PATIENCE_S
from workers.broker.wake_ups import make_app

app = make_app(
    Settings.from_env(os.environ),
    handlers=HANDLERS,
    patience_s=float(os.environ.get("TEST_PATIENCE_S", PATIENCE_S)),
)
