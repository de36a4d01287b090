"""Texts that people write about a record, checked in one way for all kinds. Reads no files."""

from collections.abc import Iterable

from registry.errors import InvalidField
from registry.references import checked_name

#: A licence identifier or a source is a line, a description may be a page.
_LINE_CHARACTERS = 1024
_PAGE_CHARACTERS = 65536


def checked_labels(labels: Iterable[str], *, kind: str) -> list[str]:
    """Domains or tags: names by the rule, each once, in the order given.

    Raises:
        InvalidName: one does not follow the rule.
    """
    return list(dict.fromkeys(checked_name(label, kind=kind) for label in labels))


def checked_line(text: str, *, field: str) -> str:
    """A short text without control characters; InvalidField otherwise."""
    if len(text) > _LINE_CHARACTERS or not text.isprintable():
        raise InvalidField(
            field, allowed=f"one line of at most {_LINE_CHARACTERS} characters", value=text[:80]
        )
    return text


def checked_licence(licence: str | None) -> str | None:
    """A licence identifier, or None where it is unknown; InvalidField otherwise."""
    return None if licence is None else checked_line(licence, field="licence")


def checked_page(text: str, *, field: str) -> str:
    """A longer text that every database can hold; InvalidField otherwise."""
    lines = text.replace("\n", "").replace("\t", "").replace("\r", "")
    if len(text) > _PAGE_CHARACTERS or not lines.isprintable():
        raise InvalidField(field, allowed=f"text of at most {_PAGE_CHARACTERS} characters", value=text[:80])
    return text
