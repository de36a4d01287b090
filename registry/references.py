"""References to records: `bio`, `bio@3`, `bio@champion`, `sha256:ab12`. Knows no records."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from formats.names import NAME_ALLOWED, RESERVED_NAMES, is_name
from registry.errors import InvalidName, InvalidReference

_VERSION = re.compile("[1-9][0-9]{0,8}")
_DIGEST = re.compile("sha256:([0-9a-f]{4,64})")

_FORMS = "bio (the newest version), bio@3, bio@champion, bio@sha256:ab12 or sha256:ab12"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A parsed reference; at most one of the three selectors is set, and none means the newest version."""

    #: None for a digest alone, which matches under any name.
    name: str | None
    version: int | None = None
    alias: str | None = None
    #: Leading hexadecimal digits of a digest, at least four, without `sha256:`.
    digest_prefix: str | None = None

    def __str__(self) -> str:
        selector = self.alias if self.version is None else str(self.version)
        if self.digest_prefix is not None:
            selector = f"sha256:{self.digest_prefix}"
        return "@".join(part for part in (self.name, selector) if part is not None)


def parse(text: str) -> Reference:
    """Split a reference into name and selector.

    Raises:
        InvalidReference: the text has none of the five forms.
    """
    alone = _DIGEST.fullmatch(text)
    if alone:
        return Reference(name=None, digest_prefix=alone.group(1))
    name, separator, selector = text.partition("@")
    if not is_name(name):
        raise InvalidReference(f"{text!r} is not a reference; write {_FORMS}")
    if not separator:
        return Reference(name=name)
    if _VERSION.fullmatch(selector):
        return Reference(name=name, version=int(selector))
    digest = _DIGEST.fullmatch(selector)
    if digest:
        return Reference(name=name, digest_prefix=digest.group(1))
    if is_name(selector) and not selector.isdigit():
        return Reference(name=name, alias=selector)
    raise InvalidReference(f"{text!r} is not a reference: {selector!r} selects nothing; write {_FORMS}")


def checked_name(name: str, *, kind: str) -> str:
    """Return the name if it may be used for a new `kind`.

    Raises:
        InvalidName: it does not follow the rule, or is one that reports use for something else.
    """
    if not is_name(name):
        raise InvalidName(f"{kind} name {name!r} is not allowed: use {NAME_ALLOWED}")
    if kind == "adapter" and name in RESERVED_NAMES:
        raise InvalidName(
            f"{kind} name {name!r} is not allowed: reports use {', '.join(sorted(RESERVED_NAMES))} for"
            " what they compare the adapters with; choose another name"
        )
    return name


def checked_alias(alias: str) -> str:
    """Return the alias if it follows the rule for names and cannot be mistaken for a version number.

    Raises:
        InvalidName: it does not.
    """
    if checked_name(alias, kind="alias").isdigit():
        raise InvalidName(f"alias {alias!r} is not allowed: a number would be taken for a version")
    return alias


def nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Up to three of `names` that are spelt like `name`, best first, ignoring case."""
    by_folded = {candidate.casefold(): candidate for candidate in sorted(set(names))}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=3, cutoff=0.6)
    return tuple(by_folded[folded] for folded in close)
