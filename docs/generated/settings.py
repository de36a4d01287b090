"""The table of environment variables."""

import re
from collections.abc import Mapping
from pathlib import Path

from docs.generated.errors import ROOT, TextMissing
from docs.generated.markdown import table

#: Variable -> default, meaning.
SETTINGS: Mapping[str, tuple[str, str]] = {
    "ZOO_HOME": ("the platform's user data folder", "Everything that has no location of its own."),
    "ZOO_DATABASE_URL": (
        "SQLite in `ZOO_HOME`",
        "`sqlite:///…` or `postgresql://…` (needs the extra `postgres`).",
    ),
    "ZOO_ARTIFACT_ROOT": (
        "`ZOO_HOME/artifacts`",
        "A folder, or any URL that fsspec opens, such as `s3://bucket/zoo` (needs the extra `s3`).",
    ),
    "ZOO_CACHE_SIZE_BYTES": (
        "100000000000",
        "Most that copies in `ZOO_HOME/cache` take: the least recently used go, those in use stay.",
    ),
    "ZOO_BROKER_URL": (
        "none",
        "`redis://…` or `amqp://…`: workers get a wake-up message instead of asking the database.",
    ),
    "ZOO_LEASE_S": ("60", "Seconds without a sign of life after which another worker may take a job."),
    "ZOO_THREADS": (
        "all cores",
        "Threads of a job process, 1 to 4096. `OMP_WAIT_POLICY=PASSIVE` nearly halves the time of two.",
    ),
    "ZOO_COMPUTE_DTYPE": (
        "the faster",
        "`float32` or `bfloat16`: what jobs compute in, so that machines of several kinds agree.",
    ),
    "ZOO_SYSTEM_METRICS": (
        "none",
        "Seconds between samples of processor, memory, disk, network and GPU memory, shown with a job's run.",
    ),
    "ZOO_DEBUG": ("none", "`1` shows where an unexpected error came from."),
    "ZOO_CRASH_AT": ("none", "For tests: a process ends itself at the point named."),
    "MLFLOW_TRACKING_URI": (
        "SQLite in `ZOO_HOME`",
        "Where runs go. While it is down, jobs go on and ship later; `none` keeps runs in their job folders.",
    ),
    "MLFLOW_TRACKING_USERNAME": ("none", "The account at MLflow, if it asks for one."),
    "MLFLOW_TRACKING_PASSWORD": ("none", "Its password."),
    "MLFLOW_TRACKING_TOKEN": ("none", "A token instead of an account."),
}

_VARIABLE = re.compile(r'"(ZOO_[A-Z_]*[A-Z])"')


def read_by_the_code(root: Path = ROOT) -> set[str]:
    """Names of our variables that the sources spell out."""
    sources = [root / "zoo.py", *(root / "registry").rglob("*.py"), *(root / "workers").rglob("*.py")]
    return {name for path in sources for name in _VARIABLE.findall(path.read_text(encoding="utf-8"))}


def setting_table() -> str:
    """Variable, default and meaning of every setting.

    Raises:
        TextMissing: the code reads a variable that has no text here.
    """
    missing = read_by_the_code() - SETTINGS.keys()
    if missing:
        raise TextMissing(f"docs/generated/settings.py says nothing of {', '.join(sorted(missing))}")
    rows = [(f"`{name}`", default, meaning) for name, (default, meaning) in SETTINGS.items()]
    return table(("Variable", "Default", "Meaning"), rows)
