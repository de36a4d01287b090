"""The Celery application: `celery -A workers.app worker` serves jobs as `zoo worker` does."""

import os

from registry.settings import Settings
from workers.broker.wake_ups import make_app

app = make_app(Settings.from_env(os.environ))
