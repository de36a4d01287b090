"""A dataset by reference or by file: a file is registered first, under the name its file name gives."""

from pathlib import Path

from registry.entities import DatasetVersion
from registry.errors import DatasetFileNotFound, DatasetNotFound
from registry.references import nearest
from registry.service import Registry

_ENDING = ".jsonl"


def dataset_reference(registry: Registry, reference: str) -> DatasetVersion:
    """The registered dataset of that reference, or of that file's content.

    Raises:
        DatasetNotFound: no registered name.
        DatasetFileNotFound: it is the path of a file, and there is none.
        InvalidDataset: the file's rows are not chat JSONL; the message names file and line.
    """
    path = Path(reference)
    if path.suffix == _ENDING and path.is_file():
        return registry.register_dataset(path)
    if path.name != reference:
        raise _no_such_file(path)
    try:
        return registry.dataset(reference)
    except DatasetNotFound as error:
        if path.suffix == _ENDING:
            raise _no_such_file(path) from error
        raise


def _no_such_file(path: Path) -> DatasetFileNotFound:
    beside = path.parent.glob(f"*{_ENDING}") if path.parent.is_dir() else ()
    return DatasetFileNotFound(path, nearest=nearest(path.name, (file.name for file in beside)))
