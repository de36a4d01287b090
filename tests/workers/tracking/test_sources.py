"""Where a job comes from: the commit of a folder, read from git's files in each of their forms."""

from pathlib import Path

import pytest

from workers.tracking.sources import Source, commit_of

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / ".git" / "refs" / "heads").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / "data").mkdir()
    return folder


def test_a_branch_is_followed_from_a_folder_inside(repository: Path) -> None:
    (repository / ".git" / "refs" / "heads" / "main").write_text(f"{COMMIT}\n")
    assert commit_of(repository / "data") == COMMIT


def test_a_packed_branch_and_a_detached_head_are_read(repository: Path) -> None:
    (repository / ".git" / "packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/main\n")
    assert commit_of(repository) == COMMIT
    (repository / ".git" / "HEAD").write_text(f"{OTHER}\n")
    assert commit_of(repository) == OTHER


def test_a_work_tree_has_a_head_of_its_own(repository: Path, tmp_path: Path) -> None:
    own = repository / ".git" / "worktrees" / "tree"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/other\n")
    (own / "commondir").write_text("../..\n")
    (repository / ".git" / "refs" / "heads" / "other").write_text(f"{OTHER}\n")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".git").write_text(f"gitdir: {own}\n")
    assert commit_of(tmp_path / "tree") == OTHER


def test_no_repository_and_an_empty_one_have_no_commit(repository: Path, tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
    assert commit_of(repository) is None


def test_what_is_not_known_is_no_tag() -> None:
    assert Source(user="ada").tags == {"mlflow.user": "ada"}
    asked = Source(command="zoo train --name 'my bio'", user="ada", commit=COMMIT)
    assert asked.tags["mlflow.source.name"] == "zoo train --name 'my bio'"
    assert Source.from_json({"queue": "cpu", **asked.to_json()}) == asked
