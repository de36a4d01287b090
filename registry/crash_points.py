"""Named places at which a process ends itself, so that tests can show what is left when it ends just there.

Does nothing unless ZOO_CRASH_AT names the place.
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
    """End this process as `kill -9` does, if it was asked to end here."""
    if os.environ.get(_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
