"""Checkpoints: only a whole one of the same run is gone on from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from xlora_engine.sources.manifest import last_complete, write_manifest


def checkpoint(folder: Path, step: int, *, run: str = "sha256:a") -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "deeper").mkdir(parents=True)
    (path / "weights").write_bytes(b"w" * step)
    (path / "deeper" / "state").write_bytes(b"s")
    write_manifest(path, run=run)
    return path


def test_a_run_without_checkpoints_begins_anew(tmp_path: Path) -> None:
    assert last_complete(tmp_path / "absent", run="sha256:a") is None
    assert last_complete(tmp_path, run="sha256:a") is None


def test_the_newest_by_step_is_found_and_older_ones_are_kept(tmp_path: Path) -> None:
    for step in (9, 10, 8):
        checkpoint(tmp_path, step)
    assert last_complete(tmp_path, run="sha256:a") == tmp_path / "checkpoint-10"
    assert len(list(tmp_path.iterdir())) == 3


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "half a manifest": lambda path: (path / "manifest.json").write_text('{"run"'),
    "a manifest of another kind": lambda path: (path / "manifest.json").write_text("[]"),
    "only the beginning of a manifest": lambda path: (path / "manifest.json").rename(
        path / "manifest.json.partial"
    ),
    "other bytes": lambda path: (path / "weights").write_bytes(b"x" * 2),
    "a file less": lambda path: (path / "deeper" / "state").unlink(),
    "a file more": lambda path: (path / "deeper" / "more").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_that_is_not_whole_is_removed(tmp_path: Path, damage: str) -> None:
    checkpoint(tmp_path, 1)
    DAMAGES[damage](checkpoint(tmp_path, 2))
    assert last_complete(tmp_path, run="sha256:a") == tmp_path / "checkpoint-1"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_one_of_another_run_is_removed(tmp_path: Path) -> None:
    checkpoint(tmp_path, 1, run="sha256:b")
    assert last_complete(tmp_path, run="sha256:a") is None
    assert not list(tmp_path.iterdir())


def test_one_that_is_written_again_can_be_sealed_again(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 1)
    (path / "weights").write_bytes(b"new")
    write_manifest(path, run="sha256:a")
    assert last_complete(tmp_path, run="sha256:a") == path
