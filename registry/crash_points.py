"""Named points in the code at which a process kills itself, so that tests can show what a crash there leaves.

Does nothing unless ZOO_CRASH_AT names a point.
"""

import os
import signal

_VARIABLE = "ZOO_CRASH_AT"

CRASH_POINTS = (
    "after_claim",
    "after_spawn",
    "after_artifact_rename",
    "before_commit",
    "after_commit",
    "before_finish",
    "after_finish",
    "after_publish",
)


def crash_point(name: str) -> None:
    """Kill this process with SIGKILL if ZOO_CRASH_AT names this point."""
    if os.environ.get(_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
