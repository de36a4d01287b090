"""A replaced file is the old one or the new one, never a part of either."""

from pathlib import Path

import pytest

from workers.processes.replaced_file import replaced_file


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_is_replaced_after_the_block(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with replaced_file(path, durable=durable) as staged:
        staged.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replaced_file(path) as staged:
        staged.write_text("half of it \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
