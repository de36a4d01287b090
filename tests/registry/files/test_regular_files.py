"""Files are opened only where they are files; a swap between look and read changes nothing."""

import os
from pathlib import Path

import pytest

from registry.errors import InvalidAdapter
from registry.files.regular_files import names_in, open_regular, read_bounded


def test_what_was_opened_stays_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"first")
    with open_regular(path, refusal=InvalidAdapter) as file:
        path.unlink()
        path.symlink_to("/etc/passwd")
        assert file.read() == b"first"


def test_a_pipe_without_a_writer_does_not_block_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(InvalidAdapter, match="is a named pipe, expected a regular file"):
        open_regular(tmp_path / "x", refusal=InvalidAdapter)


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(InvalidAdapter, match="is a folder"):
            open_regular(tmp_path, refusal=InvalidAdapter)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("size", "taken"), [(0, True), (9, True), (10, True), (11, False), (10_000, False)])
def test_a_file_is_read_up_to_its_limit(tmp_path: Path, size: int, taken: bool) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * size)
    if taken:
        assert read_bounded(path, limit_bytes=10, refusal=InvalidAdapter) == b"x" * size
    else:
        with pytest.raises(InvalidAdapter, match="larger than the 10 bytes"):
            read_bounded(path, limit_bytes=10, refusal=InvalidAdapter)


def test_a_folder_s_names_are_sorted_and_marked_as_folders_or_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c").write_text("")
    (tmp_path / "a").write_text("")
    assert list(names_in(tmp_path, refusal=InvalidAdapter).items()) == [
        ("a", False),
        ("b", True),
        ("c", False),
    ]


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc", "nowhere"])
def test_a_link_in_a_folder_is_refused_whatever_it_points_to(tmp_path: Path, target: str) -> None:
    (tmp_path / "x").symlink_to(target)
    with pytest.raises(InvalidAdapter, match=r"x is a symbolic link.*cp -rL"):
        names_in(tmp_path, refusal=InvalidAdapter)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(InvalidAdapter, match="x is not a folder"):
        names_in(tmp_path / "x", refusal=InvalidAdapter)
    with pytest.raises(InvalidAdapter, match="No such file"):
        names_in(tmp_path / "y", refusal=InvalidAdapter)
