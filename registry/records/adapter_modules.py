"""The lists of modules that adapters touch, each stored once for all that share it."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.insertion import insert_or_ignore
from registry.files.json_text import digest_of
from registry.records.adapter_models import AdapterModulesRow


def modules_id(session: Session, target_modules: Sequence[str], modules: Sequence[str]) -> int:
    """The row that holds these two lists, added if there is none."""
    lists = {"target_modules": list(target_modules), "modules": list(modules)}
    digest = digest_of(lists)
    found = select(AdapterModulesRow.id).where(AdapterModulesRow.digest == digest)
    known = session.scalar(found)
    if known is not None:
        return known
    session.execute(
        insert_or_ignore(session, AdapterModulesRow, {"digest": digest, **lists}, unique=("digest",))
    )
    return session.scalars(found).one()
