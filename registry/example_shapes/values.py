"""What every shape of an example is made from: named values, texts among them, and what is not read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formats.chat_messages import Expected, canonical_json


@dataclass(frozen=True, kw_only=True)
class Converted:
    """An object as a line of a stored file holds it, and the names that nothing was read from."""

    stored: Mapping[str, Any]
    unread: frozenset[str]


def canonical_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by names in one form: `Question` and ` question` are `question`; what is null is not there."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        if value is not None:
            named.setdefault(str(name).strip().casefold().replace(" ", "_").replace("-", "_"), value)
    return named


def converted(values: Mapping[str, Any], read: set[str], **stored: Any) -> Converted:
    """What is stored, with the domain if there is one that can be shown; `read` are the names it is from."""
    domain = values.get("domain")
    # A domain that is given as the empty text, as a table must, is none.
    labelled = {} if domain is None or domain == "" else {"domain": domain}
    # Answers to choose from belong to any question; `checked_example` says whether they are some.
    chosen_from = values.get("choices")
    is_asked = "messages" in stored and isinstance(chosen_from, list)
    choices, read = ({"choices": chosen_from}, read | {"choices"}) if is_asked else ({}, read)
    kept = {name: value for name, value in stored.items() if value is not None}
    return Converted(stored=choices | kept | labelled, unread=frozenset(values) - read - {"domain"})


def text_at(values: Mapping[str, Any], name: str, expected: Expected) -> str:
    """A text that is not blank; a number is written out.

    Raises:
        expected: it is something else.
    """
    value = values.get(name)
    if isinstance(value, bool | int | float):
        return canonical_json(value)
    if not isinstance(value, str) or not value.strip():
        raise expected(f"a text as {name!r}, not blank", value, None)
    return value


def optional_text(values: Mapping[str, Any], name: str, expected: Expected) -> str | None:
    """The same, or None where it is left out, null or blank."""
    value = values.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return text_at(values, name, expected)


def is_blank(value: Any) -> bool:
    """Whether nothing is said: an empty list or object, a blank text."""
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def asked(system: str | None, question: str) -> list[dict[str, str]]:
    """The messages of a question."""
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": question}]
