"""MLflow's records of artifacts follow the zoo's folder when it is moved.

MLflow keeps absolute locations in its database and has no call that changes them: after a move, pictures of
new runs would be written to where the folder was, and those of old runs would not be found.
"""

import contextlib
import sqlite3
from pathlib import Path

_LOCATIONS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def follow_moved_artifacts(database: Path, artifact_folder: Path) -> None:
    """Replace the folder that locations in MLflow's SQLite file begin with by `artifact_folder`.

    Only where both lie in one folder, the zoo's own: another database may belong to several installations.
    """
    if database.parent != artifact_folder.parent:
        return
    new = artifact_folder.as_uri()
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        for old in _former_folders(connection, artifact_folder.name, new=new):
            for table, column in _LOCATIONS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608 - no user's names
                    f" WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )


def _former_folders(connection: sqlite3.Connection, name: str, *, new: str) -> set[str]:
    """Every other folder of that name which the zoo's experiments were kept in."""
    rows = connection.execute("SELECT name, artifact_location FROM experiments WHERE name LIKE 'zoo/%'")
    return {
        location.removesuffix(f"/{experiment}")
        for experiment, location in rows
        if location.endswith(f"/{name}/{experiment}") and location != f"{new}/{experiment}"
    }
