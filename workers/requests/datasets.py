"""A dataset by reference or by file, which is registered under the name its file name gives.

A file is copied and checked when it is looked up; the copy is registered when all else that was asked for is
known to hold.
"""

from dataclasses import dataclass
from pathlib import Path

from formats.data_formats import CHAT, ENDINGS, named_format
from registry.entities import DatasetVersion
from registry.errors import DatasetFileNotFound, DatasetNotFound, InvalidDataset
from registry.intake.dataset_files import parse_file_name
from registry.references import checked_name, nearest
from registry.registration.datasets import CheckedDataset
from registry.service import Registry


@dataclass(frozen=True, kw_only=True)
class GivenDataset:
    """A dataset that is on record, or a sound file that is to be."""

    name: str
    domain: str | None
    found: DatasetVersion | CheckedDataset

    def register(self, registry: Registry) -> DatasetVersion:
        """The dataset on record; a file is put there."""
        if isinstance(self.found, CheckedDataset):
            return registry.datasets.register(self.found)
        return self.found


def given_dataset(registry: Registry, reference: str) -> GivenDataset:
    """The registered dataset of that reference, or that file, every example checked; nothing is registered.

    Raises:
        DatasetNotFound: no registered name.
        DatasetFileNotFound: it is the path of a file, and there is none.
        InvalidDataset: an example of the file is refused; the message names file and line.
        InvalidName: the file's name cannot be a dataset's.
    """
    path = Path(reference)
    layout = named_format(path.name)
    if layout is not None and path.is_file():
        name = checked_name(path.name.removesuffix(layout.ending), kind="dataset")
        checked = registry.datasets.check(path)
        return GivenDataset(name=name, domain=parse_file_name(path.name)[0], found=checked)
    if path.name != reference:
        raise _another_file(path) if path.is_file() else _no_such_file(path)
    try:
        found = registry.datasets.get(reference)
    except DatasetNotFound as error:
        if layout is not None:
            raise _no_such_file(path) from error
        raise
    return GivenDataset(name=found.name, domain=found.domain, found=found)


def _another_file(path: Path) -> InvalidDataset:
    return InvalidDataset(
        f"{path} is taken for no dataset, for its name does not end in {ENDINGS};"
        f" if it is chat JSONL, rename it: mv {path} {path.with_suffix(CHAT.ending)}"
    )


def _no_such_file(path: Path) -> DatasetFileNotFound:
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    names = (file.name for file in beside if named_format(file.name))
    return DatasetFileNotFound(path, nearest=nearest(path.name, names))
