"""Copies of foreign files: whole, digested while they are made, bounded, and never outside their folder."""

import hashlib
import os
from pathlib import Path

import pytest

from registry.errors import ArtifactError, InvalidDataset
from registry.files import staging as module
from registry.files.staging import Staging


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    (tmp_path / "staged").mkdir()
    return Staging(tmp_path / "staged")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(2_500_000))  # longer than what is read at once
    return path


def test_a_copy_is_whole_and_knows_its_digest(staging: Staging, source: Path) -> None:
    copy = staging.copy(source, "bio/x", refusal=InvalidDataset)
    assert copy.read() == source.read_bytes()
    assert copy.digest == f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}"
    assert copy.size_bytes == 2_500_000
    assert copy.path == staging.folder / "bio" / "x"
    assert staging["bio/x"] == copy
    assert "bio/x" in staging
    assert "x" not in staging


def test_a_file_that_is_too_large_is_refused_before_it_is_copied(staging: Staging, source: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"source is larger than the 2,499,999 bytes"):
        staging.copy(source, "x", refusal=InvalidDataset, limit_bytes=2_499_999)
    assert list(staging.folder.iterdir()) == []
    assert staging.copy(source, "x", refusal=InvalidDataset, limit_bytes=2_500_000).size_bytes == 2_500_000


def test_a_file_that_grows_while_it_is_copied_is_refused(
    staging: Staging, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying = module.copy_hashed

    def growing(opened: object, target: object) -> tuple[str, int]:
        with source.open("ab") as more:
            more.write(b"more")
        return copying(opened, target)  # type: ignore[arg-type]  # passed on as they come

    monkeypatch.setattr(module, "copy_hashed", growing)
    with pytest.raises(InvalidDataset, match="larger than"):
        staging.copy(source, "x", refusal=InvalidDataset, limit_bytes=2_500_000)


def test_a_written_file_replaces_a_copy(staging: Staging, source: Path) -> None:
    staging.copy(source, "x", refusal=InvalidDataset)
    written = staging.write("x", b"made anew")
    assert staging["x"] == written
    assert written.read() == b"made anew"
    assert written.digest == f"sha256:{hashlib.sha256(b'made anew').hexdigest()}"


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "a//b", ""])
def test_a_name_that_leads_elsewhere_is_refused(staging: Staging, source: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="cannot be a stored file's path"):
        staging.copy(source, name, refusal=InvalidDataset)
    with pytest.raises(ArtifactError, match="cannot be a stored file's path"):
        staging.write(name, b"x")
    assert list(staging.folder.iterdir()) == []


def test_only_regular_files_are_copied(staging: Staging, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("source")
    for path in (tmp_path / "link", tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidDataset):
            staging.copy(path, "x", refusal=InvalidDataset)
