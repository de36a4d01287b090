"""A dataset by reference or by file, which is registered under the name its file name gives.

A file is copied and checked when it is looked up; the copy is registered when all else that was asked for is
known to hold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry.containers.container_formats import without_ending
from registry.entities import DatasetVersion
from registry.errors import DatasetFileNotFound, DatasetNotFound
from registry.intake.dataset_files import dataset_name, parse_file_name
from registry.references import checked_name, nearest
from registry.registration.datasets import AS_IT_IS, CheckedDataset, Reading
from registry.service import Registry


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenDataset:
    """A dataset that is on record, or a sound file that is to be."""

    name: str
    domain: str | None
    found: DatasetVersion | CheckedDataset

    @property
    def reference(self) -> str:
        """The version that is on record; a file's name."""
        return self.name if isinstance(self.found, CheckedDataset) else self.found.reference

    @property
    def examples(self) -> int:
        """How many it holds."""
        found = self.found
        return found.manifest.examples if isinstance(found, CheckedDataset) else found.examples

    def on_record(self, registry: Registry) -> "GivenDataset":
        """The same, registered."""
        return GivenDataset(name=self.name, domain=self.domain, found=self.register(registry))

    def register(self, registry: Registry) -> DatasetVersion:
        """The dataset on record; a file is put there."""
        if isinstance(self.found, CheckedDataset):
            return registry.datasets.register(self.found)
        return self.found


def given_dataset(
    registry: Registry,
    reference: str,
    reading: Reading = AS_IT_IS,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> GivenDataset:
    """The registered dataset of that reference, or those files, every example checked; nothing is registered.

    A path is that of a file or folder where it has a separator or an ending of files of examples; files are
    read as `reading` tells, and `say` is told what they were taken for.

    Raises:
        DatasetNotFound: no registered name.
        DatasetFileNotFound: it is the path of a file, and there is none.
        InvalidDataset: an example of the file is refused; the message names file and line.
        InvalidName: the file's name cannot be a dataset's.
    """
    path = Path(reference)
    is_named_as_a_file = path.name != reference or without_ending(path.name) is not None
    if is_named_as_a_file and path.exists():
        path = path if path.name not in ("", "..") else path.resolve()
        name = checked_name(dataset_name(path.name), kind="dataset")
        checked = registry.datasets.check(path, reading)
        for read in checked.manifest.taken_for:
            say(read)
        return GivenDataset(name=name, domain=parse_file_name(path.name)[0], found=checked)
    if path.name != reference:
        raise _no_such_file(path)
    try:
        found = registry.datasets.get(reference)
    except DatasetNotFound as error:
        if is_named_as_a_file:
            raise _no_such_file(path) from error
        raise
    return GivenDataset(name=found.name, domain=found.domain, found=found)


def _no_such_file(path: Path) -> DatasetFileNotFound:
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    names = (file.name for file in beside if without_ending(file.name) is not None)
    return DatasetFileNotFound(path, nearest=nearest(path.name, names))
