"""How many processes the kernel has killed because memory ran out, to recognise such an end of a job."""

from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def memory_kills() -> int:
    """The count so far, of this process's control group and of the machine; 0 where the kernel has none."""
    return _counted(_own_cgroup() / "memory.events") + _counted(Path("/proc/vmstat"))


def _own_cgroup() -> Path:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return _CGROUPS
    # The unified hierarchy's line is `0::<path>`.
    paths = [line.split(":", 2)[2] for line in lines if line.startswith("0::")]
    return _CGROUPS / paths[0].lstrip("/") if paths else _CGROUPS


def _counted(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
