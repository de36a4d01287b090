"""A process that runs one job as a command does: HOME, DATABASE, JOB and HANDLER are its arguments.

HANDLER is a function of `tests.workers.handlers`, or `module:function` of another module beside it.
"""

import os
import sys
from pathlib import Path

from registry.service import Registry
from registry.settings import Settings
from workers.attempts.runner import run_here
from workers.tracking.shipping import NO_TRACKING

home, database, job_id, handler = sys.argv[1:]
settings = Settings(
    home=Path(home),
    database_url=database,
    artifact_root=f"{home}/artifacts",
    mlflow_tracking_uri=NO_TRACKING,
)
module, _, function = handler.rpartition(":")
handlers = {"train": f"tests.workers.{module or 'handlers'}:{function}"}
lease_s = float(os.environ.get("TEST_LEASE_S", settings.lease_s))
with Registry.open(settings) as registry:
    ended = run_here(registry, int(job_id), handlers=handlers, lease_s=lease_s)
sys.exit({"succeeded": 0, "cancelled": 130}.get(ended.state, 7))
