"""The licence that a model card states; nothing else of a README is read, and no YAML is run."""

import re

from registry.files.staging import Staging

CARD_FILE = "README.md"
CARD_LIMIT_BYTES = 1024 * 1024

#: Front matter: what is between the first line, ---, and the next such line.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(
    r"^licen[sc]e:[ \t]*(?P<quote>['\"]?)(?P<name>[A-Za-z0-9][A-Za-z0-9.+_-]{0,63})(?P=quote)[ \t]*$",
    re.MULTILINE,
)


def licence_in(staging: Staging) -> str | None:
    """The licence that the README.md among the copies names in its front matter, if there is one."""
    return stated_licence(staging[CARD_FILE].read()) if CARD_FILE in staging else None


def stated_licence(card: bytes) -> str | None:
    """The value of `license:` in a card's front matter, None where it is absent or not a plain name."""
    text = card.decode("utf-8", errors="replace").replace("\r\n", "\n")
    front_matter = _FRONT_MATTER.search(text)
    stated = _LICENCE.search(front_matter[1]) if front_matter else None
    return stated["name"] if stated else None
