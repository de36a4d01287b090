"""The environment of a child process: a short list of variables of its parent's, and no secrets.

Settings that may contain a password go through a pipe instead, because /proc/<pid>/environ stays readable.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from registry.settings import threads

#: Names, and prefixes of names, which end in "_".
_PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "XDG_",
    "MPLCONFIGDIR",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "GOMP_",
    "OMP_WAIT_POLICY",
    "HIP_",
    "ROCR_",
    "PYTORCH_",
    "ZOO_",
)
_HELD_BACK = ("_URL", "_URI", "_TOKEN", "_PASSWORD", "_SECRET")
#: Inputs are staged and verified before a child starts, so a child never downloads anything.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def child_environment(environ: Mapping[str, str], *, also: tuple[str, ...] = ()) -> dict[str, str]:
    """The environment of a child; `also`: further names and prefixes to pass on, secrets included."""
    kept = {
        name: value
        for name, value in environ.items()
        if (_is_listed(name, _PASSED_ON) and not name.endswith(_HELD_BACK)) or _is_listed(name, also)
    }
    count = str(threads(environ) or usable_cpus())
    return (
        kept
        | _OFFLINE
        | {
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "PYTHONUNBUFFERED": "1",
        }
    )


def child_command(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules; `-P` keeps a user's `random.py` from being imported."""
    return [sys.executable, "-P", "-m", module, *arguments]


def _is_listed(name: str, entries: tuple[str, ...]) -> bool:
    return any(name == entry or (entry.endswith("_") and name.startswith(entry)) for entry in entries)


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
