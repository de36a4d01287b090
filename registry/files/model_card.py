"""The licence that a model card states; nothing else of a README is read, and no YAML is run."""

import re
from pathlib import Path

from formats.errors import Refusal
from registry.files.regular_files import read_bounded

CARD_FILE = "README.md"
CARD_LIMIT_BYTES = 1024 * 1024

#: Front matter: what is between the first line, ---, and the next such line.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(
    r"^licen[sc]e:[ \t]*(?P<quote>['\"]?)(?P<name>[A-Za-z0-9][A-Za-z0-9.+_-]{0,63})(?P=quote)[ \t]*$",
    re.MULTILINE,
)


def read_licence(folder: Path, *, refusal: Refusal) -> str | None:
    """The licence named in the front matter of the folder's README.md, if it has one.

    Raises:
        refusal: README.md is a link or the like, or larger than any card.
    """
    card = folder / CARD_FILE
    if not card.exists() and not card.is_symlink():
        return None
    return stated_licence(read_bounded(card, limit_bytes=CARD_LIMIT_BYTES, refusal=refusal))


def stated_licence(card: bytes) -> str | None:
    """The value of `license:` in a card's front matter, None where it is absent or not a plain name."""
    text = card.decode("utf-8", errors="replace").replace("\r\n", "\n")
    front_matter = _FRONT_MATTER.search(text)
    stated = _LICENCE.search(front_matter[1]) if front_matter else None
    return stated["name"] if stated else None
