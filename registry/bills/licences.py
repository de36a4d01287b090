"""How much a licence asks, strictest first: a table, and a licence's place in it. Knows no law."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Strictness:
    """A group of licences that ask for about the same."""

    #: What it means for who uses the work.
    meaning: str
    #: Regular expression of the SPDX identifiers, or names, in it; case does not matter.
    names: str


#: Strictest first; a licence is in the first group whose expression it matches.
GROUPS: Sequence[Strictness] = (
    Strictness(meaning="no licence is stated, so nothing is granted", names=r""),
    Strictness(
        meaning="not for commercial use, or not to be changed",
        names=r".*(\bnc\b|\bnd\b|non-?commercial|research).*|mnpl.*|coqui.*",
    ),
    Strictness(
        meaning="terms of its own, or that restrict what it is used for",
        names=r".*rail.*|llama.*|gemma.*|qwen.*|deepseek.*|falcon.*|health.*|busl-.*|elastic-.*|licenseref-.*",
    ),
    Strictness(meaning="share alike, over a network too", names=r"agpl-.*|sspl-.*|eupl-.*|osl-.*"),
    Strictness(meaning="share alike", names=r"gpl-.*|cc-by-sa-.*|odbl-.*|cecill-2.*|gfdl-.*"),
    Strictness(
        meaning="share alike for the work itself", names=r"lgpl-.*|mpl-.*|epl-.*|cddl-.*|cdla-sharing-.*"
    ),
    Strictness(
        meaning="name the authors",
        names=r"apache-.*|mit.*|bsd-.*|isc|cc-by-\d.*|odc-by-.*|cdla-permissive-1.*|artistic-.*|zlib|ms-pl|bsl-.*|afl-.*",
    ),
    Strictness(meaning="anything", names=r"cc0-.*|pddl-.*|unlicense|0bsd|wtfpl|mit-0|cdla-permissive-2.*|pd"),
)

#: Of a licence that the table does not know: it has to be read.
UNKNOWN = 2

_PARTS = re.compile(r"\s+(?:AND|WITH)\s+|[()]", re.IGNORECASE)
_CHOICE = re.compile(r"\s+OR\s+", re.IGNORECASE)


def strictness_of(licence: str | None) -> int:
    """The number of its group in `GROUPS`, 0 the strictest, for an identifier, a name or an SPDX expression.

    Where a choice is given (`MIT OR GPL-3.0-only`) the mildest counts, where all hold the strictest.
    """
    if licence is None or not licence.strip():
        return 0
    parts = [part for part in _PARTS.split(licence) if part.strip()]
    if len(parts) == 1:
        return max(_of_one(choice) for choice in _CHOICE.split(parts[0].strip()))
    names = [one for part in parts for one in _CHOICE.split(part) if one.strip()]
    return min(map(_of_one, names), default=UNKNOWN)


def _of_one(name: str) -> int:
    folded = re.sub(r"[\s_]+", "-", name.strip().lower())
    if folded in ("mit-0", "0bsd"):  # which ask less than what they begin like
        return len(GROUPS) - 1
    found = (place for place, group in enumerate(GROUPS) if place and re.fullmatch(group.names, folded))
    return next(found, UNKNOWN)
