"""The text of a model card, and the licence that it states; no YAML of it is run."""

import re

from registry.files.staging import Staging

CARD_FILE = "README.md"
CARD_LIMIT_BYTES = 1024 * 1024

#: Front matter: what is between the first line, ---, and the next such line.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
_NAME = r"(?P<quote>['\"]?)(?P<name>[A-Za-z0-9][A-Za-z0-9.+_-]{0,63})(?P=quote)[ \t]*$"
#: `license: mit`, and a list of one.
_LICENCE = re.compile(rf"^licen[sc]e:[ \t]*(?:\n[ \t]*-[ \t]*)?{_NAME}", re.MULTILINE)
#: The name of a licence that the hub has no word for, beside `license: other`.
_OTHER_NAME = re.compile(rf"^licen[sc]e_name:[ \t]*{_NAME}", re.MULTILINE)

#: What stands where a licence was never written: by TRL's template, and by people.
_PLACEHOLDERS = frozenset(
    {
        *("license", "licence", "other", "unknown", "none", "null", "unspecified", "undefined", "n-a", "na"),
        *("tbd", "todo", "more", "no", "yes", "true", "false", "unlicensed"),
    }
)


def licence_in(staging: Staging) -> str | None:
    """The licence that the README.md among the copies names in its front matter, if there is one."""
    return stated_licence(staging[CARD_FILE].read()) if CARD_FILE in staging else None


def card_in(staging: Staging) -> str:
    """The text of the README.md among the copies; empty without one."""
    return staging[CARD_FILE].read().decode("utf-8", errors="replace") if CARD_FILE in staging else ""


def stated_licence(card: bytes) -> str | None:
    """The value of `license:` in a card's front matter; None where it is absent, a placeholder or no name."""
    text = card.decode("utf-8", errors="replace").replace("\r\n", "\n")
    front_matter = _FRONT_MATTER.search(text)
    if front_matter is None:
        return None
    names = (pattern.search(front_matter[1]) for pattern in (_LICENCE, _OTHER_NAME))
    stated = (found["name"] for found in names if found is not None)
    return next((name for name in stated if name.lower() not in _PLACEHOLDERS), None)
