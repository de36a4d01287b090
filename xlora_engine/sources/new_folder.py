"""A folder that appears whole or not at all, and never in the place of another."""

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xlora_engine.errors import CheckpointInvalid, CheckpointUnreadable, CheckpointUnwritable

#: What can only be said of the place that is written to; copying names the file that it read even then.
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which takes the place of `folder` at the end, or vanishes on an error.

    Its files may be read and written by whom the umask says, whatever those who wrote them had in mind.

    Raises:
        CheckpointInvalid: `folder` holds something already.
        CheckpointUnwritable: it cannot be made or filled.
        CheckpointUnreadable: another file, that it was to be filled from, cannot be read.
    """
    folder = folder.resolve()
    try:
        with _staged(folder) as staging, _told_if_read(staging):
            yield staging
    except OSError as error:
        raise CheckpointUnwritable(
            f"cannot write {folder}: {error.strerror or error};"
            " export to a folder that you may write to, on a disk with room"
        ) from error


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointInvalid(f"{folder} holds something already; export to a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    staging.mkdir()
    try:
        yield staging
        _apply_umask(staging)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextmanager
def _told_if_read(staging: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename
        if place is None or error.errno in _OF_WRITING or Path(str(place)).is_relative_to(staging):
            raise
        raise CheckpointUnreadable(f"cannot read {place}: {error.strerror or error}") from error


def _apply_umask(folder: Path) -> None:
    """Give every file the mode a new one has here; safetensors are written for their owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
