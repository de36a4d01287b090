"""The zoo's folder: whether it may be written to, and how much space is left."""

import os
from collections.abc import Iterator
from pathlib import Path

from registry.files.blobs.disk import free_bytes_at
from registry.settings import Settings
from workers.checks.findings import Finding, fault, ok, warning

_GIB = 1024**3
#: Below the first, even a job with a small model may run out of space; the second leaves time to react.
_FAULT_BELOW_BYTES = 1 * _GIB
_WARN_BELOW_BYTES = 10 * _GIB


def check(settings: Settings) -> Iterator[Finding]:
    """The home folder, or the nearest folder above it that exists."""
    home = settings.home
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield fault("disk", f"{existing} may not be written to", fix=f"chown {os.geteuid()} {existing}")
        return
    yield free_space("disk", home, free_bytes_at(home))


def free_space(check_name: str, location: Path | str, free_bytes: int | None) -> Finding:
    """Whether enough space is left; `free_bytes` is None where a store does not tell."""
    if free_bytes is None:
        return ok(check_name, f"{location} can be written to; it does not tell how much space is left")
    finding = f"{location} has {free_bytes / _GIB:.1f} GiB left"
    fix = f"free space; what takes it: du -xh --max-depth=2 {location} | sort -h | tail"
    if free_bytes < _FAULT_BELOW_BYTES:
        return fault(check_name, finding, fix=fix)
    if free_bytes < _WARN_BELOW_BYTES:
        return warning(check_name, finding, fix=fix)
    return ok(check_name, finding)
