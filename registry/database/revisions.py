"""Whether this release may use a database, by the revision stored in it. Knows no SQLAlchemy."""

from migrations import HEAD, REVISIONS
from registry.errors import SchemaMismatch


def refuse_other(stored: str | None) -> None:
    """Accept this release's own revision alone.

    Raises:
        SchemaMismatch: the revision is older or newer.
    """
    refuse_newer(stored)
    if stored != HEAD:
        raise SchemaMismatch(
            f"the database is at revision {stored!r}, this release needs {HEAD!r};"
            " upgrade it with: zoo migrate"
        )


def refuse_newer(stored: str | None) -> None:
    """Accept any revision that this release can upgrade.

    Raises:
        SchemaMismatch: a newer release has written the database.
    """
    if stored is not None and stored not in REVISIONS:
        raise SchemaMismatch(
            f"the database is at revision {stored!r}, this release knows revisions up to {HEAD!r};"
            " use the newer release that wrote it: pip install --upgrade adapter-zoo"
        )
