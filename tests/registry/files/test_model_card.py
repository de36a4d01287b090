"""The licence of a model card, and nothing else of it."""

import os
from pathlib import Path

import pytest

from registry.files.model_card import CARD_FILE, licence_in, stated_licence
from registry.files.staging import Staging


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# x", "apache-2.0"),
        ("---\r\nlanguage: en\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicence: 'cc-by-4.0'\n---\n", "cc-by-4.0"),
        ('---\ntags:\n- lora\nlicense: "llama3.2"\n---\n', "llama3.2"),
        ("---\nlicense: other  \n---\n", None),
        ("---\nlicence: license\n---\n", None),
        ("---\nlicense: Unknown\n---\n", None),
        ("---\nlicense: other\nlicense_name: acme-research\nlicense_link: LICENSE\n---\n", "acme-research"),
        ("---\nlicense: other\nlicense_name: other\n---\n", None),
        ("---\nlicense: unlicense\n---\n", "unlicense"),
        ("---\nlicense:\n- mit\n---\n", "mit"),
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
    assert licence_in(Staging(tmp_path)) is None


def test_the_card_that_was_copied_is_read(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    staging.write(CARD_FILE, b"---\nlicense: mit\n---\n")
    assert licence_in(staging) == "mit"
