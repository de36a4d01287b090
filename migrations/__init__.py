"""The database's history, one revision after the other. Imports no Alembic, which is slow."""

from pathlib import Path

#: Every revision, oldest first; a database whose revision is not here was written by a newer release.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")

#: The revision this code works with.
HEAD = REVISIONS[-1]

#: Where Alembic finds `env.py` and `versions/`, in a source tree and in an installed package alike.
SCRIPT_LOCATION = Path(__file__).parent
