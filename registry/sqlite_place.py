"""Where a database file is to lie: what cannot be one is said plainly, not taken for an empty zoo."""

from registry.errors import InvalidSetting
from registry.settings import Settings

#: What SQLite says of a file of another kind.
NO_DATABASE = "file is not a database"


def no_database(path: str) -> InvalidSetting:
    """The error for a file of another kind, which is left as it is."""
    return InvalidSetting(
        f"{path} is no SQLite database; it was left as it is:"
        " set ZOO_DATABASE_URL (or ZOO_HOME) to another place, or move the file away"
    )


def require_place(settings: Settings) -> None:
    """Let a file's folder be there, unless it is the zoo's own, which is made when it is needed.

    Raises:
        InvalidSetting: the folder is missing.
    """
    path = settings.sqlite_path
    if path is None or path.parent == settings.home or path.parent.is_dir():
        return
    raise InvalidSetting(
        f"ZOO_DATABASE_URL names {path}, but there is no folder {path.parent};"
        f" correct it, or make the folder: mkdir -p {path.parent}"
    )
