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


REASONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "half": (lambda path: (path / "manifest.json").unlink(), "it was not written to its end"),
    "changed": (
        lambda path: (path / "weights").write_bytes(b"x"),
        "its files are not those that were written",
    ),
    "other": (lambda path: write_manifest(path, run="a=1 b=3 c=5"), "it is of another run (other b, c)"),
    "older": (
        lambda path: write_manifest(path, run="sha256:a"),
        "it is of another run (described in another way)",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_the_reason_against_one_is_said(tmp_path: Path, case: str) -> None:
    change, reason = REASONS[case]
    change(checkpoint(tmp_path, 7, run="a=1 b=2 c=3"))
    said: list[str] = []
    assert last_complete(tmp_path, run="a=1 b=2 c=3", on_discarded=said.append) is None
    assert said == [f"checkpoint-7 is not taken up: {reason}"]


def test_nothing_is_said_of_one_that_is_taken_up(tmp_path: Path) -> None:
    checkpoint(tmp_path, 7)
    assert last_complete(tmp_path, run="sha256:a", on_discarded=pytest.fail) is not None
