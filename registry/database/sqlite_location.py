"""Where a database file is to lie: what cannot be one is said plainly, not taken for an empty zoo."""

import os
from pathlib import Path

from registry.errors import DatabaseUnreachable, InvalidSetting, RegistryError
from registry.settings import Settings

#: What SQLite says of a file of another kind, and of one it may not write: even reading writes beside it.
_NO_DATABASE = "file is not a database"
_MAY_NOT_WRITE = ("readonly database", "unable to open database file")


def explained(said: str, path: str) -> RegistryError | None:
    """The error that SQLite's words about a database file stand for; None if they are of another matter."""
    if _NO_DATABASE in said:
        return InvalidSetting(
            f"{path} is no SQLite database; it was left as it is:"
            " set ZOO_DATABASE_URL (or ZOO_HOME) to another place, or move the file away"
        )
    if any(words in said for words in _MAY_NOT_WRITE):
        return DatabaseUnreachable(
            f"the database file {path} cannot be written: {said}; let this account write to it and to its"
            " folder, or set ZOO_HOME or ZOO_DATABASE_URL to a place where it may"
        )
    return None


def require_location(settings: Settings) -> None:
    """Let a database file be there, or a folder that takes one; the zoo's own is made when it is needed.

    Raises:
        InvalidSetting: the folder is missing, is none, or does not let this account in.
    """
    path = settings.sqlite_path
    if path is None:
        return
    is_own = path.parent == settings.home
    setting = "ZOO_HOME" if is_own else "ZOO_DATABASE_URL"
    try:
        if path.exists():
            return
        folder = _nearest(path.parent) if is_own else path.parent
        is_folder = folder.is_dir()
    except OSError as error:
        raise InvalidSetting(
            f"{setting}: {path} cannot be looked at ({error.strerror}); set one that this account may use"
        ) from error
    if not is_folder and is_own:
        raise InvalidSetting(f"ZOO_HOME needs a folder, and {folder} is none; set it to another place")
    if not is_folder:
        raise InvalidSetting(
            f"ZOO_DATABASE_URL names {path}, but there is no folder {folder};"
            f" correct it, or make the folder: mkdir -p {folder}"
        )
    if not _may_write(folder):
        raise InvalidSetting(
            f"{setting}: this account may not write to {folder}, so there can be no database {path};"
            " set a folder where it may"
        )


def _nearest(folder: Path) -> Path:
    """What is there of a folder: itself, or the last of those that it is to be in."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _may_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
