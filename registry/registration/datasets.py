"""Registering a dataset: every row checked, the file stored, then named."""

from pathlib import Path
from typing import Any

from registry.database.database import Database
from registry.entities import DatasetVersion
from registry.errors import InvalidField
from registry.files.artifacts import ArtifactStore
from registry.intake.dataset_files import parse_file_name, read_chat_jsonl
from registry.records.kinds import DATASET
from registry.records.labels import checked_licence, checked_line
from registry.records.record_rows import as_dataset, file_columns
from registry.records.versions import add_version
from registry.references import checked_name

_FORMAT = "chat"
_SPLITS = ("train", "eval")
_ENDING = ".jsonl"


def register_dataset(
    file: Path,
    *,
    name: str | None,
    domain: str | None,
    split: str | None,
    licence: str | None,
    origin: str | None,
    database: Database,
    artifacts: ArtifactStore,
) -> DatasetVersion:
    """Register a version; equal bytes under the same name are the version that is there.

    Name, domain and split that are not given come from a file name such as `bio.train.jsonl`.

    Raises:
        InvalidDataset: a row is no chat; the error carries its line number.
        InvalidName: the name does not follow the rule.
    """
    name = checked_name(file.name.removesuffix(_ENDING) if name is None else name, kind="dataset")
    named_domain, named_split = parse_file_name(file.name)
    domain, split = domain or named_domain, split or named_split
    if split is not None and split not in _SPLITS:
        raise InvalidField("split", allowed="'train' or 'eval'", value=split)
    columns: dict[str, Any] = {
        "domain": None if domain is None else checked_name(domain, kind="domain"),
        "split": split,
        "format": _FORMAT,
        "licence": checked_licence(licence),
        "origin": checked_line(origin or f"file:{file.name}", field="origin"),
    }
    manifest = read_chat_jsonl(file)
    stored = artifacts.put_file(file, name=file.name)
    columns |= {
        "digest": manifest.digest,
        "examples": manifest.rows,
        "size_bytes": manifest.size_bytes,
        "warnings": list(manifest.warnings),
        "files": file_columns([stored]),
    }
    with database.write() as session:
        return as_dataset(add_version(session, DATASET, name, columns, content="digest"))
