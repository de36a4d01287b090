"""A folder that is written completely or not at all: filled under a hidden name, then renamed."""

import errno
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from xlora_engine.errors import SavedFileUnreadable, SavedModelInvalid, SavedModelUnwritable

#: Errors that only writing can raise; `shutil.copyfile` names the file it read even for these.
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which becomes `folder` at the end, or is removed on an error.

    Its files get the mode that the umask gives new files, whatever mode they were written with.

    Raises:
        SavedModelInvalid: `folder` is not empty.
        SavedModelUnwritable: it cannot be made or filled.
        SavedFileUnreadable: a file it is filled from cannot be read.
    """
    folder = folder.resolve()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SavedModelInvalid(f"{folder} is not empty; export to a new folder")
        with _staged(folder, ()) as staging, _read_errors_apart(staging):
            yield staging
    except OSError as error:
        raise SavedModelUnwritable(
            f"cannot write {folder}: {error.strerror or error};"
            " export to a folder that you may write to, on a disk with room"
        ) from error


@contextmanager
def replacing(folder: Path, entries: Sequence[str]) -> Iterator[Path]:
    """Gives an empty folder to fill, which replaces these entries of `folder`; its other entries stay.

    The first entry is the one by which a folder that may be replaced is recognised.

    Raises:
        SavedModelInvalid: `folder` holds some of the entries, but not the first.
        OSError: it cannot be made or filled.
    """
    folder = folder.resolve()
    taken = [name for name in entries if (folder / name).exists()]
    if taken and not (folder / entries[0]).is_file():
        raise SavedModelInvalid(
            f"{folder} is no saved model, yet it holds {', '.join(taken)}; save to another folder"
        )
    with _staged(folder, entries) as staging:
        yield staging


@contextmanager
def _staged(folder: Path, replaced: Collection[str]) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    staging.mkdir()
    try:
        yield staging
        _apply_umask(staging)
        _put_in_place(staging, folder, replaced)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _put_in_place(staging: Path, folder: Path, replaced: Collection[str]) -> None:
    """Rename; at every moment the old or the new folder is complete, if only under its hidden name."""
    if not folder.exists() or not any(folder.iterdir()):
        staging.rename(folder)
        return
    aside = staging.with_name(f"{staging.name}.old")
    folder.rename(aside)
    try:
        staging.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    for entry in aside.iterdir():
        if entry.name not in replaced:
            entry.rename(folder / entry.name)
    shutil.rmtree(aside)


@contextmanager
def _read_errors_apart(staging: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename
        if path is None or error.errno in _OF_WRITING or Path(str(path)).is_relative_to(staging):
            raise
        raise SavedFileUnreadable(f"cannot read {path}: {error.strerror or error}") from error


def _apply_umask(folder: Path) -> None:
    """Give every file the mode of a new one; safetensors are written for their owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
