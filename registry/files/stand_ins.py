"""What lies in place of a file that was not fetched: told by its first bytes, with the way to fetch it."""

from pathlib import Path

#: As many bytes as are looked at.
START_BYTES = 64

_LFS = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html")


def stand_in(start: bytes, *, called: Path) -> str | None:
    """What a file with this start is instead of itself, and what to do; None if nothing is known."""
    if start.startswith(_LFS):
        return (
            f"{called} is a Git LFS pointer, not the file itself: run git lfs pull in {called.parent}"
            " (after git lfs install), or download the file"
        )
    if start.lstrip().lower().startswith(_PAGES):
        return (
            f"{called} is a web page, not the file itself: download the file, not the page that shows it"
            " (on the hub the address has /resolve/ in place of /blob/)"
        )
    if not start:
        return f"{called} is empty: download it again"
    return None
