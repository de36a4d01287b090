"""Registering a dataset: its file copied, every example of the copy checked, the copy stored, then named."""

from pathlib import Path
from typing import Any

from formats.data_formats import format_of
from registry.database.database import Database
from registry.entities import DatasetVersion
from registry.errors import InvalidDataset, InvalidField
from registry.files.artifacts import ArtifactStore
from registry.intake.dataset_files import inspect_dataset, parse_file_name
from registry.records.kinds import DATASET
from registry.records.labels import checked_licence, checked_line
from registry.records.record_rows import as_dataset, file_columns
from registry.records.versions import add_version
from registry.references import checked_name

_SPLITS = ("train", "eval")


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
        InvalidDataset: an example is refused; the error names file and line.
        InvalidName: the name does not follow the rule.
    """
    layout = format_of(file.name)
    name = checked_name(file.name.removesuffix(layout.ending) if name is None else name, kind="dataset")
    named_domain, named_split = parse_file_name(file.name)
    domain, split = domain or named_domain, split or named_split
    if split is not None and split not in _SPLITS:
        raise InvalidField("split", allowed="'train' or 'eval'", value=split)
    columns: dict[str, Any] = {
        "domain": None if domain is None else checked_name(domain, kind="domain"),
        "split": split,
        "format": layout.name,
        "licence": checked_licence(licence),
        "origin": checked_line(origin or f"file:{file.name}", field="origin"),
    }
    with artifacts.staging() as staging:
        copy = staging.copy(file, file.name, refusal=InvalidDataset)
        with copy.path.open("rb") as source:
            manifest = inspect_dataset(source, file=str(file), layout=layout)
        files = artifacts.store(staging, [file.name])
    columns |= {
        "digest": copy.digest,
        "examples": manifest.examples,
        "size_bytes": copy.size_bytes,
        "warnings": list(manifest.warnings),
        "files": file_columns(files),
    }
    with database.write() as session:
        return as_dataset(add_version(session, DATASET, name, columns, content="digest"))
