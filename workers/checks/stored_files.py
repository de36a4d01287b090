"""Every stored file read to its end: what a record names is there, and is what was stored."""

from collections.abc import Callable, Iterator, Mapping

from registry.database.reader import Reader, open_reader
from registry.errors import ArtifactMissing, DigestMismatch
from registry.files.artifacts import ArtifactStore
from registry.settings import Settings
from workers.checks.findings import Finding, fault, ok

_CHECK = "stored files"
_GIGABYTE = 1e9

#: Kind of record -> its files, with how people name it.
_FILES: Mapping[str, str] = {
    "base": "SELECT v.name AS reference, v.files FROM base_model v",
    **{
        kind: f"SELECT n.name || '@' || v.version AS reference, v.files FROM {kind}_version v"  # noqa: S608
        f" JOIN {kind} n ON n.id = v.{kind}_id"
        for kind in ("adapter", "dataset", "composition")
    },
    "evaluation": "SELECT v.id AS reference, v.files FROM evaluation v",
}

#: Receives how many of how many files were read.
OnFile = Callable[[int, int], None]


def check(settings: Settings, *, on_file: OnFile = lambda *_: None) -> Iterator[Finding]:
    """Read each file that a record names, removed records among them, once; one finding for each fault.

    Raises:
        StoreUnreachable: the artifact store does not answer.
    """
    with open_reader(settings) as reader:
        owners = _owners(reader)
    store = ArtifactStore(settings.artifact_root)
    size_bytes, faults = 0, 0
    for number, (digest, owner) in enumerate(owners.items(), start=1):
        try:
            size_bytes += store.verify(digest)
        except (ArtifactMissing, DigestMismatch) as error:
            faults += 1
            yield fault(_CHECK, f"{owner}: {error}", fix=f"register the files of {owner} again")
        on_file(number, len(owners))
    if not faults:
        yield ok(_CHECK, f"{len(owners)} files, {size_bytes / _GIGABYTE:.2f} GB, as they were stored")


def _owners(reader: Reader) -> dict[str, str]:
    """Digest -> the first record that names a file of it, such as `adapter bio@3 (adapter_config.json)`."""
    owners: dict[str, str] = {}
    for kind, files in _FILES.items():
        for row in reader.rows(files):
            for file in row["files"]:
                owners.setdefault(file["digest"], f"{kind} {row['reference']} ({file['path']})")
    return owners
