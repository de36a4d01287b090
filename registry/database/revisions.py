"""Whether this release may work with a database, by the revision written in it. Knows no SQLAlchemy."""

from migrations import HEAD, REVISIONS
from registry.errors import SchemaMismatch


def refuse_other(stored: str | None) -> None:
    """Do nothing for this release's own revision.

    Raises:
        SchemaMismatch: it is an older or a newer one.
    """
    refuse_newer(stored)
    if stored != HEAD:
        raise SchemaMismatch(
            f"the database is at revision {stored!r}, this release needs {HEAD!r};"
            " bring it up to date with: zoo migrate"
        )


def refuse_newer(stored: str | None) -> None:
    """Do nothing for a revision that this release can bring up to date.

    Raises:
        SchemaMismatch: a newer release has written the database.
    """
    if stored is not None and stored not in REVISIONS:
        raise SchemaMismatch(
            f"the database is at revision {stored!r}, this release knows them up to {HEAD!r};"
            " use the newer release that wrote it: pip install --upgrade adapter-zoo"
        )
