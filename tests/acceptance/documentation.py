"""The pages that users read, and the blocks of code in them."""

import re
from pathlib import Path

from tests.acceptance.conftest import ROOT

README = ROOT / "README.md"
#: README and every page of the documentation.
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The contents of the fenced blocks of a page in this language, in order."""
    return [text for named, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if named == language]


def languages(page: Path) -> set[str]:
    """The languages of a page's fenced blocks."""
    return {named for named, _ in _BLOCK.findall(page.read_text(encoding="utf-8"))}


def commands(page: Path) -> list[str]:
    """The commands of a page's console blocks, in order; a backslash at its end continues a line."""
    return [
        line.removeprefix("$ ")
        for block in blocks(page, "console")
        for line in block.replace("\\\n", "").splitlines()
        if line.startswith("$ ")
    ]


def named(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))
