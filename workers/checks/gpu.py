"""The GPUs that the driver lists, and whether the installed torch, which is not imported, can use one."""

import importlib.metadata
import shutil
import subprocess
from collections.abc import Iterator

from registry.settings import Settings
from workers.checks.findings import Finding, fault, ok, warning

_ASK = ("--query-gpu=index,name,memory.free,memory.total,driver_version", "--format=csv,noheader")
_TIMEOUT_S = 10.0


def check(settings: Settings) -> Iterator[Finding]:  # noqa: ARG001 - the signature of every check
    """Each GPU of this machine."""
    command = shutil.which("nvidia-smi")
    if command is None:
        yield ok("gpu", "none on this machine: jobs run on the CPU")
        return
    try:
        asked = subprocess.run(
            [command, *_ASK], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        yield fault("gpu", f"the driver does not answer within {_TIMEOUT_S:g} s", fix="reboot")
        return
    if asked.returncode != 0:
        said = (asked.stdout + asked.stderr).strip().partition("\n")[0]
        yield fault(
            "gpu", f"the driver is broken: {said}", fix="nvidia-smi; then: modprobe nvidia, or reboot"
        )
        return
    yield from map(_described, asked.stdout.splitlines())
    yield from _without_cuda(importlib.metadata.version("torch"))


def _described(line: str) -> Finding:
    index, name, free, total, driver = (field.strip() for field in line.split(","))
    return ok("gpu", f"{index}: {name}, {free} of {total} free, driver {driver}")


def _without_cuda(torch_version: str) -> Iterator[Finding]:
    if torch_version.endswith("+cpu"):
        yield warning(
            "gpu",
            f"torch {torch_version} cannot use it",
            fix=f"pip install --force-reinstall torch=={torch_version.partition('+')[0]}",
        )
