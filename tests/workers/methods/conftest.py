"""What jobs are tested with."""

from tests.workers.jobs.conftest import started, stocked

__all__ = ["started", "stocked"]
