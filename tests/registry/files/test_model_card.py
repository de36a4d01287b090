"""The licence of a model card, and nothing else of it."""

import os
from pathlib import Path

import pytest

from registry.errors import InvalidBase
from registry.files.model_card import CARD_LIMIT_BYTES, read_licence, stated_licence


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("---\r\nlanguage: en\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicence: 'cc-by-4.0'\n---\n", "cc-by-4.0"),
        ('---\ntags:\n- lora\nlicense: "llama3.2"\n---\n', "llama3.2"),
        ("---\nlicense: other  \n---\n", "other"),
        ("---\nlicense:\n---\n", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlicense: !!python/object:os.system x\n---\n", None),
        ("---\nlicense: 'mit\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("---\nsub:\n  license: mit\n---\n", None),
        ("# x\n---\nlicense: mit\n---\n", None),
        ("---\ntitle: x\n---\nlicense: mit\n", None),
        (f"---\nlicense: {'x' * 65}\n---\n", None),
        ("", None),
        ("license: mit", None),
    ],
)
def test_a_plain_name_in_the_front_matter_is_the_licence(card: str, licence: str | None) -> None:
    assert stated_licence(card.encode()) == licence


def test_bytes_that_are_no_text_say_nothing() -> None:
    assert stated_licence(os.urandom(4096)) is None
    assert stated_licence(b"---\nauthor: \xff\nlicense: mit\n---\n") == "mit"


def test_a_card_without_end_is_read_in_bounded_time() -> None:
    assert stated_licence(b"---\n" + b"---x\n" * 200_000) is None


def test_a_folder_without_a_card_states_none(tmp_path: Path) -> None:
    assert read_licence(tmp_path, refusal=InvalidBase) is None


def test_a_card_that_is_a_link_or_too_large_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidBase, match="symbolic link"):
        read_licence(tmp_path, refusal=InvalidBase)
    card.unlink()
    card.write_bytes(b"x" * (CARD_LIMIT_BYTES + 1))
    with pytest.raises(InvalidBase, match="larger than"):
        read_licence(tmp_path, refusal=InvalidBase)
