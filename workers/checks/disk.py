"""The zoo's folder: whether it may be written to, and the room that is left there."""

import os
from collections.abc import Iterator
from pathlib import Path

from registry.files.blobs import free_bytes_at
from registry.settings import Settings
from workers.checks.findings import Finding, fault, ok, warning

_GIB = 1024**3
#: Below: a job that trains a small model fails for want of room. Below: it is time to look.
_FAULT_BELOW_BYTES = 1 * _GIB
_WARN_BELOW_BYTES = 10 * _GIB


def check(settings: Settings) -> Iterator[Finding]:
    """The home folder, or what would hold it."""
    home = settings.home
    place = next(folder for folder in (home, *home.parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield fault("disk", f"{place} may not be written to", mend=f"chown {os.geteuid()} {place}")
        return
    yield room("disk", home, free_bytes_at(home))


def room(check_name: str, place: Path | str, free_bytes: int | None) -> Finding:
    """Whether the room that is left will do."""
    if free_bytes is None:
        return ok(check_name, f"{place} takes files; nobody can tell how much room is left")
    said = f"{place} has {free_bytes / _GIB:.1f} GiB left"
    mend = f"make room, or see what takes it: du -xh --max-depth=2 {place} | sort -h | tail"
    if free_bytes < _FAULT_BELOW_BYTES:
        return fault(check_name, said, mend=mend)
    if free_bytes < _WARN_BELOW_BYTES:
        return warning(check_name, said, mend=mend)
    return ok(check_name, said)
