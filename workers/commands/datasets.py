"""A dataset by reference or by file: a file is registered first, under the name its file name gives."""

from pathlib import Path

from registry.entities import DatasetVersion
from registry.service import Registry


def dataset_reference(registry: Registry, reference: str) -> DatasetVersion:
    """The registered dataset of that reference, or of that file's content.

    Raises:
        DatasetNotFound: neither a registered name nor an existing file.
        InvalidDataset: the file's rows are not chat JSONL; the message names the line.
    """
    path = Path(reference)
    if path.suffix == ".jsonl" and path.is_file():
        return registry.register_dataset(path)
    return registry.dataset(reference)
