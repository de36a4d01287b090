"""`zoo doctor --verify`: every file that a record names, in a folder and in a bucket."""

from dataclasses import replace
from pathlib import Path

import pytest

from registry.files.artifacts import ArtifactStore
from registry.service import Registry
from registry.settings import Settings
from tests.registry.folders import write_dataset
from workers.checks import stored_files
from workers.checks.findings import FAULT, OK


@pytest.fixture(params=["folder", "bucket"])
def kept(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings whose artifacts are in a folder or in a bucket."""
    if request.param == "folder":
        return settings
    return replace(settings, artifact_root=request.getfixturevalue("s3"))


def test_what_is_missing_or_changed_is_named_with_its_record(kept: Settings, tmp_path: Path) -> None:
    with Registry.open(kept) as registry:
        records = [
            registry.datasets.register(write_dataset(tmp_path / f"{name}.jsonl", topic=name))
            for name in ("whole", "lost", "changed")
        ]
    read: list[tuple[int, int]] = []
    (well,) = stored_files.check(kept, on_file=lambda *counted: read.append(counted))
    assert (well.state, well.finding.split(",")[0]) == (OK, "3 files")
    assert read == [(1, 3), (2, 3), (3, 3)]
    _, lost, changed = (record.files[0].digest for record in records)
    store = ArtifactStore(kept.artifact_root)
    store.delete(lost)
    _overwrite(kept.artifact_root, changed)
    faults = list(stored_files.check(kept))
    assert [(finding.state, finding.finding.split(" (")[0]) for finding in faults] == [
        (FAULT, "dataset lost@1"),
        (FAULT, "dataset changed@1"),
    ]


def _overwrite(root: str, digest: str) -> None:
    import fsspec

    hexadecimal = digest.removeprefix("sha256:")
    with fsspec.open(f"{root}/sha256/{hexadecimal[:2]}/{hexadecimal}", "wb") as file:
        file.write(b"other")
