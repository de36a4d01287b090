"""Foreign files as a registration takes them: copied first, then looked at."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.entities import FileRecord
from registry.errors import ArtifactMissing
from registry.files.artifacts import ArtifactStore
from registry.files.digests import weights_digest
from registry.files.safetensors_file import TensorEntry, opened_tensors, values_of
from registry.files.staging import Staging
from registry.intake.adapter_files import AdapterManifest, stage_adapter
from registry.intake.base_files import BaseManifest, stage_base
from registry.intake.dataset_files import DatasetManifest
from registry.registration.datasets import check_dataset


def read_adapter(folder: Path) -> AdapterManifest:
    """What an adapter folder holds."""
    with tempfile.TemporaryDirectory() as made:
        return stage_adapter(folder, Staging(Path(made)))


def read_base(folder: Path) -> BaseManifest:
    """What a base model folder holds."""
    with tempfile.TemporaryDirectory() as made:
        return stage_base(folder, Staging(Path(made)))


def read_dataset(file: Path) -> DatasetManifest:
    """What a dataset's file holds."""
    with tempfile.TemporaryDirectory() as made:
        return check_dataset(file, ArtifactStore(made)).manifest


def read_header(path: Path) -> tuple[TensorEntry, ...]:
    """The tensors that a safetensors file lists."""
    with opened_tensors(path) as file:
        return file.entries


def read_tensor(path: Path, entry: TensorEntry) -> NDArray[np.float32]:
    """The values of one of them."""
    with opened_tensors(path) as file:
        return values_of(file.data_of(entry), entry, called=path)


def digest_of_weights(*paths: Path) -> str:
    """The digest of all tensors in these files together."""
    with ExitStack() as stack:
        return weights_digest(*(stack.enter_context(opened_tensors(path)) for path in paths))


def put_folder(
    store: ArtifactStore, folder: Path, names: Sequence[str], *, instead: Mapping[str, bytes] | None = None
) -> tuple[FileRecord, ...]:
    """Store the named files of a folder; `instead` holds what is stored in place of some."""
    with store.staging() as staging:
        for name in names:
            staging.copy(folder / name, name, refusal=ArtifactMissing)
        for name, data in (instead or {}).items():
            staging.write(name, data)
        return store.store(staging, names)
