"""Registering a dataset: its file copied, every example of the copy checked, the copy stored, then named."""

import contextlib
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formats.data_formats import DataFormat, format_of
from registry.database.database import Database
from registry.entities import DatasetVersion
from registry.errors import InvalidDataset, InvalidField
from registry.files.artifacts import ArtifactStore
from registry.files.staging import StagedFile, Staging
from registry.intake.dataset_files import DatasetManifest, inspect_dataset, parse_file_name
from registry.records.kinds import DATASET
from registry.records.labels import checked_licence, checked_line
from registry.records.record_rows import as_dataset, file_columns
from registry.records.versions import add_version
from registry.references import checked_name

_SPLITS = ("train", "eval")


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedDataset:
    """A file that was copied and every example of the copy checked; what is registered is that copy.

    The copy is deleted when it was registered, is discarded or is no longer held.
    """

    file: Path
    layout: DataFormat
    manifest: DatasetManifest
    staging: Staging

    @property
    def copy(self) -> StagedFile:
        """The copy, under the file's name."""
        return self.staging[self.file.name]


def check_dataset(file: Path, artifacts: ArtifactStore) -> CheckedDataset:
    """Copy a file and check every example of the copy; nothing is on record afterwards.

    Raises:
        InvalidDataset: an example is refused; the error names file and line.
    """
    layout = format_of(file.name)
    with contextlib.ExitStack() as stack:
        staging = stack.enter_context(artifacts.staging())
        copy = staging.copy(file, file.name, refusal=InvalidDataset)
        with copy.path.open("rb") as source:
            manifest = inspect_dataset(source, file=str(file), layout=layout)
        checked = CheckedDataset(file=file, layout=layout, manifest=manifest, staging=staging)
        weakref.finalize(checked, stack.pop_all().close)
    return checked


def register_dataset(
    given: Path | CheckedDataset,
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
    file = given if isinstance(given, Path) else given.file
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
    checked = check_dataset(given, artifacts) if isinstance(given, Path) else given
    columns |= {
        "digest": checked.copy.digest,
        "examples": checked.manifest.examples,
        "size_bytes": checked.copy.size_bytes,
        "warnings": list(checked.manifest.warnings),
        "files": file_columns(artifacts.store(checked.staging, [file.name])),
    }
    with database.write() as session:
        return as_dataset(add_version(session, DATASET, name, columns, content="digest"))
