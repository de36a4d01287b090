"""The location of a SQLite file: an unusable one is an error, instead of looking like an empty zoo."""

import os
from pathlib import Path
from urllib.parse import quote

from registry.errors import DatabaseUnreachable, InvalidSetting, RegistryError
from registry.settings import Settings

#: SQLite's messages for a file of another kind, and for one it may not write; even reading writes beside it.
_NO_DATABASE = "file is not a database"
_MAY_NOT_WRITE = ("readonly database", "unable to open database file")

_EFFECTIVE = os.access in os.supports_effective_ids


def sqlite_error(message: str, path: str) -> RegistryError | None:
    """The error for SQLite's message about a database file; None if the file is not the cause."""
    if _NO_DATABASE in message:
        return InvalidSetting(
            f"{path} is not a SQLite database and was left unchanged:"
            " set ZOO_DATABASE_URL (or ZOO_HOME) to another path, or move the file away"
        )
    if any(part in message for part in _MAY_NOT_WRITE):
        return DatabaseUnreachable(
            f"the database file {path} cannot be written: {message}; give this account write permission to"
            " it and its folder, or set ZOO_HOME or ZOO_DATABASE_URL to a folder where it has"
        )
    return None


def read_only_uri(path: Path) -> str | None:
    """SQLite's URI for a database that this account may only read; None where it may write.

    Write-ahead logging writes files beside the database even to read it. Where they cannot be written and
    hold no changes, SQLite is told that the file does not change: what others write into it meanwhile is not
    seen (https://www.sqlite.org/uri.html#uriimmutable).
    """
    if not path.exists() or (os.access(path, os.W_OK, effective_ids=_EFFECTIVE) and _may_write(path.parent)):
        return None
    log = path.with_name(path.name + "-wal")
    immutable = "" if log.exists() and log.stat().st_size else "&immutable=1"
    return f"file:{quote(str(path))}?mode=ro{immutable}"


def require_location(settings: Settings) -> None:
    """Require a database file, or a folder in which one can be created; the zoo's own folder may be missing.

    Raises:
        InvalidSetting: the folder is missing, is not a folder, or may not be written to by this account.
    """
    path = settings.sqlite_path
    if path is None:
        return
    is_own = path.parent == settings.home
    setting = "ZOO_HOME" if is_own else "ZOO_DATABASE_URL"
    try:
        if path.exists():
            return
        folder = _nearest_existing(path.parent) if is_own else path.parent
        is_folder = folder.is_dir()
    except OSError as error:
        raise InvalidSetting(
            f"{setting}: {path} cannot be read ({error.strerror}); set a path that this account may use"
        ) from error
    if not is_folder and is_own:
        raise InvalidSetting(f"ZOO_HOME must be a folder, and {folder} is not one; set it to another path")
    if not is_folder:
        raise InvalidSetting(
            f"ZOO_DATABASE_URL names {path}, but the folder {folder} does not exist;"
            f" correct it, or create the folder: mkdir -p {folder}"
        )
    if not _may_write(folder):
        raise InvalidSetting(
            f"{setting}: this account may not write to {folder}, so it cannot create the database {path};"
            " set a folder that it may write to"
        )


def _nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _may_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE)
