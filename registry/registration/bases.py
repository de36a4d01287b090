"""Registering a base model: copied, the copy checked, stored, and then named, in this order."""

from pathlib import Path
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from registry.database.database import Database
from registry.database.insertion import insert_or_ignore
from registry.entities import BaseModel, FileRecord
from registry.errors import NameTaken
from registry.files.artifacts import ArtifactStore
from registry.intake.base_files import BaseManifest, stage_base
from registry.intake.base_weights import Prove
from registry.records.labels import checked_licence, checked_line
from registry.records.models import BaseModelRow
from registry.records.record_rows import as_base, file_columns
from registry.records.resolution import ACTIVE
from registry.references import checked_name


def register_base(
    folder: Path,
    *,
    name: str,
    source: str,
    revision: str | None,
    licence: str | None,
    prove: Prove | None,
    chat_template: str | None,
    database: Database,
    artifacts: ArtifactStore,
) -> BaseModel:
    """Register a base model; the same one under the same name again is the one that is there.

    `prove` looks at it with the library that loads it, before its weights are copied. `chat_template` names
    the one to use, or its file, where it is not the folder's own.

    Raises:
        InvalidBase: the folder holds no base model that can be loaded safely.
        NameTaken: the name is that of another base model, or this one has another name.
    """
    checked_name(name, kind="base model")
    checked_line(source, field="source")
    if revision is not None:
        checked_line(revision, field="revision")
    with artifacts.staging() as staging:
        manifest = stage_base(folder, staging, prove=prove, chat_template=chat_template)
        stated = {
            "name": name,
            "source": source,
            "revision": revision,
            "licence": checked_licence(licence or manifest.licence),
        }
        files = artifacts.store(staging, manifest.files)
    with database.write() as session:
        return as_base(_added(session, stated | _derived(manifest, files)))


def _derived(manifest: BaseManifest, files: tuple[FileRecord, ...]) -> dict[str, Any]:
    same = (
        *("digest", "weights_digest", "config_digest", "tokenizer_digest", "chat_template_digest"),
        *("architecture", "hidden_size", "layer_count", "vocabulary_size", "dtype", "parameter_count"),
        "size_bytes",
    )
    return {
        **{field: getattr(manifest, field) for field in same},
        "modules": {path: list(shape) for path, shape in manifest.modules.items()},
        "files": file_columns(files),
        "warnings": list(manifest.warnings),
    }


def _added(session: Session, columns: dict[str, Any]) -> BaseModelRow:
    session.execute(insert_or_ignore(session, BaseModelRow, columns))
    is_known = or_(BaseModelRow.name == columns["name"], BaseModelRow.digest == columns["digest"])
    rows = session.scalars(select(BaseModelRow).where(is_known).with_for_update()).all()
    for row in rows:
        if (row.name, row.digest) == (columns["name"], columns["digest"]):
            row.state = ACTIVE
            session.flush()
            return row
    raise _taken(rows[0], columns)


def _taken(row: BaseModelRow, columns: dict[str, Any]) -> NameTaken:
    if row.digest == columns["digest"]:
        return NameTaken(
            f"this base model is registered already, as {row.name!r}; see: zoo bases show {row.name}"
        )
    return NameTaken(
        f"{row.name!r} is another base model ({row.digest[:19]}…, this one is {columns['digest'][:19]}…);"
        " give this one another --name"
    )
