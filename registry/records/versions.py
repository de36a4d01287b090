"""Adding a version to a name: consecutive numbers, equal content once, one effect for each job."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.database.insertion import insert_or_ignore
from registry.errors import InvalidField
from registry.jobs import rows as job_rows
from registry.records.kinds import VersionedKind
from registry.records.resolution import ACTIVE


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The job for which a record is registered, and its fence."""

    job_id: int
    fence: int

    @classmethod
    def of(cls, job_id: int | None, fence: int | None) -> "Holder | None":
        """The holder, if job and fence are given.

        Raises:
            InvalidField: only one of the two is given.
        """
        if job_id is None and fence is None:
            return None
        if job_id is None or fence is None:
            raise InvalidField("fence", allowed="given together with job_id", value=fence)
        return cls(job_id=job_id, fence=fence)


def hold(session: Session, holder: Holder | None) -> None:
    """Keep the job from being claimed until the transaction ends; LeaseLost if it has been."""
    if holder is not None:
        job_rows.hold(session, holder.job_id, fence=holder.fence)


def add_version(
    session: Session,
    kind: VersionedKind[Any],
    name: str,
    columns: Mapping[str, Any],
    *,
    content: str,
    holder: Holder | None = None,
) -> Any:
    """Add a version with the next number, unless the name already has this content or the job its effect.

    `content` names the column that is equal for equal content. A removed version with equal content is
    restored. The caller has called `hold`.
    """
    if holder is not None:
        done = session.scalar(select(kind.versions).where(kind.versions.job_id == holder.job_id))
        if done is not None:
            return done
    name_id = _locked_name(session, kind, name)
    of_name = getattr(kind.versions, kind.name_key) == name_id
    same = session.scalar(
        select(kind.versions).where(of_name, getattr(kind.versions, content) == columns[content])
    )
    if same is not None:
        same.state = ACTIVE
        session.flush()
        return same
    last = session.scalar(select(func.max(kind.versions.version)).where(of_name))
    row = kind.versions(**{kind.name_key: name_id}, version=(last or 0) + 1, **columns)
    session.add(row)
    session.flush()
    return row


def _locked_name(session: Session, kind: VersionedKind[Any], name: str) -> int:
    session.execute(insert_or_ignore(session, kind.names, {"name": name}, unique=("name",)))
    # Serialises additions to the same name, so that no number is used twice.
    return int(session.scalars(select(kind.names.id).where(kind.names.name == name).with_for_update()).one())
