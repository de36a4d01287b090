"""Registering a dataset: its files copied, every example of the copies checked, what is stored named."""

import contextlib
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from formats.chat_examples import ENDING, NAME
from registry.containers.folder_of_examples import files_of_examples
from registry.containers.json_lines import begins_with_objects, read_json_lines
from registry.containers.records import Record
from registry.containers.sources import Source, opened_source
from registry.database.database import Database
from registry.entities import DatasetVersion
from registry.errors import InvalidDataset, InvalidField
from registry.example_shapes.example_conversion import conversion_of, needs_no_conversion
from registry.files.artifacts import ArtifactStore
from registry.files.staging import StagedFile, Staging
from registry.intake.dataset_files import (
    DatasetManifest,
    dataset_name,
    inspect_dataset,
    parse_file_name,
    stored_name,
    write_examples,
)
from registry.records.kinds import DATASET
from registry.records.labels import checked_licence, checked_line
from registry.records.record_rows import as_dataset, file_columns
from registry.records.versions import add_version
from registry.references import checked_name

_SPLITS = ("train", "eval")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are to be read, where they do not tell themselves."""

    #: What is to be read -> the column it is in.
    mapping: Mapping[str, str] | None = None
    #: Leave out what cannot be taken, instead of refusing all.
    skip_bad_examples: bool = False
    #: Of a folder: only files that match this pattern.
    files: str | None = None


#: As files tell themselves.
AS_IT_IS = Reading()


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckedDataset:
    """Files that were copied and every example of the copies checked; what is registered is made of these.

    The copies are deleted when it was registered, is discarded or is no longer held.
    """

    #: The file or folder that was given.
    file: Path
    #: What the stored file is called.
    stored: str
    manifest: DatasetManifest
    staging: Staging

    @property
    def copy(self) -> StagedFile:
        """What is stored."""
        return self.staging[self.stored]


def check_dataset(file: Path, artifacts: ArtifactStore, reading: Reading = AS_IT_IS) -> CheckedDataset:
    """Copy a file, or those of a folder, and check every example; nothing is on record afterwards.

    Raises:
        InvalidDataset: examples are refused; the error names file and line of all of them. Or there are none,
            and it says what is there instead.
    """
    with contextlib.ExitStack() as stack:
        staging = stack.enter_context(artifacts.staging())
        copies = _copied(file, staging, reading)
        stored = stored_name(file.name, ENDING)
        manifest = None if reading != AS_IT_IS else _as_given(file, copies, staging, stored)
        if manifest is None:
            manifest = _converted(file, copies, staging, stored, reading)
        for _, copy in copies:
            copy.path.unlink()
        checked = CheckedDataset(file=file, stored=stored, manifest=manifest, staging=staging)
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
    reading: Reading = AS_IT_IS,
) -> DatasetVersion:
    """Register a version; equal examples in equal bytes under the same name are the version that is there.

    Name, domain and split that are not given come from a file name such as `bio.train.jsonl`.

    Raises:
        InvalidDataset: examples are refused; the error names file and line of all of them.
        InvalidName: the name does not follow the rule.
    """
    file = given if isinstance(given, Path) else given.file
    name = checked_name(dataset_name(file.name) if name is None else name, kind="dataset")
    named_domain, named_split = parse_file_name(file.name)
    domain, split = domain or named_domain, split or named_split
    if split is not None and split not in _SPLITS:
        raise InvalidField("split", allowed="'train' or 'eval'", value=split)
    columns: dict[str, Any] = {
        "domain": None if domain is None else checked_name(domain, kind="domain"),
        "split": split,
        "format": NAME,
        "licence": checked_licence(licence),
        "origin": checked_line(origin or f"file:{file.name}", field="origin"),
    }
    checked = check_dataset(given, artifacts, reading) if isinstance(given, Path) else given
    columns |= {
        "digest": checked.copy.digest,
        "examples": checked.manifest.examples,
        "size_bytes": checked.copy.size_bytes,
        "warnings": list(checked.manifest.warnings),
        "reading": dict(checked.manifest.reading),
        "files": file_columns(artifacts.store(checked.staging, [checked.stored])),
    }
    with database.write() as session:
        return as_dataset(add_version(session, DATASET, name, columns, content="digest"))


def _copied(file: Path, staging: Staging, reading: Reading) -> Sequence[tuple[Path, StagedFile]]:
    """The files that were given, each with its copy."""
    is_folder = file.is_dir() and not file.is_symlink()
    if reading.files is not None and not is_folder:
        raise InvalidField("files", allowed="left out, for it chooses files of a folder", value=reading.files)
    files = files_of_examples(file, only=reading.files) if is_folder else [file]
    return [
        (one, staging.copy(one, f"given/{number}", refusal=InvalidDataset))
        for number, one in enumerate(files)
    ]


def _as_given(
    file: Path, copies: Sequence[tuple[Path, StagedFile]], staging: Staging, stored: str
) -> DatasetManifest | None:
    """What a file holds that is stored byte for byte; None if it needs conversion."""
    (_, copy), *others = copies
    source = opened_source(copy.path, str(file))
    if others or source.compression or source.encoding != "utf-8" or not _begins_with_an_example(source):
        return None
    try:
        with copy.path.open("rb") as opened:
            manifest = inspect_dataset(opened, file=str(file))
    except InvalidDataset:
        return None
    staging.copy(copy.path, stored, refusal=InvalidDataset)
    return manifest


def _begins_with_an_example(source: Source) -> bool:
    """Whether a file is JSONL whose first line means what is read of it."""
    if not begins_with_objects(source.beginning):
        return False
    first = next(read_json_lines(source), None)
    return isinstance(first, Record) and needs_no_conversion(first.values)


def _converted(
    file: Path,
    copies: Sequence[tuple[Path, StagedFile]],
    staging: Staging,
    stored: str,
    reading: Reading,
) -> DatasetManifest:
    conversions = [conversion_of(_source(given, copy), reading.mapping) for given, copy in copies]
    written = staging.folder / "converted"
    with written.open("xb") as target:
        manifest = write_examples(conversions, target, skip_bad=reading.skip_bad_examples, name=str(file))
    staging.copy(written, stored, refusal=InvalidDataset)
    written.unlink()
    files = [
        {**said, "name": given.name, "digest": copy.digest, "size_bytes": copy.size_bytes}
        for said, (given, copy) in zip(manifest.reading["files"], copies, strict=True)
    ]
    return replace(manifest, reading={**manifest.reading, "files": files})


def _source(given: Path, copy: StagedFile) -> Source:
    return opened_source(copy.path, str(given))
