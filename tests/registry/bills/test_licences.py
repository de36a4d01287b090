"""Licences are ordered by what they ask: who combines works must look at the strictest."""

import pytest

from registry.bills.licences import GROUPS, UNKNOWN, strictness_of

#: One of each group, strictest first.
IN_ORDER = (
    None,
    "CC-BY-NC-4.0",
    "llama3.1",
    "AGPL-3.0-only",
    "GPL-3.0-or-later",
    "LGPL-2.1-only",
    "Apache-2.0",
    "CC0-1.0",
)


def test_there_is_an_example_of_each_group_and_they_are_in_order() -> None:
    assert [strictness_of(licence) for licence in IN_ORDER] == list(range(len(GROUPS)))


@pytest.mark.parametrize(
    ("licence", "like"),
    [
        ("", None),
        ("apache-2.0", "Apache-2.0"),
        ("mit", "Apache-2.0"),
        ("MIT-0", "CC0-1.0"),
        ("cc-by-4.0", "Apache-2.0"),
        ("CC-BY-SA-4.0", "GPL-3.0-or-later"),
        ("cc-by-nc-sa-4.0", "CC-BY-NC-4.0"),
        ("CC BY-NC 4.0", "CC-BY-NC-4.0"),
        ("CC-BY-ND-4.0", "CC-BY-NC-4.0"),
        ("bigscience-bloom-rail-1.0", "llama3.1"),
        ("gemma", "llama3.1"),
        ("MIT OR GPL-3.0-only", "Apache-2.0"),
        ("MIT AND GPL-3.0-only", "GPL-3.0-or-later"),
        ("(MIT OR Apache-2.0) AND CC-BY-NC-4.0", "CC-BY-NC-4.0"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "llama3.1"),
    ],
)
def test_a_licence_is_in_the_group_of_its_like(licence: str, like: str | None) -> None:
    assert strictness_of(licence) == strictness_of(like)


@pytest.mark.parametrize("licence", ["our-own-terms", "x" * 10_000, "%", "(", "OR", "AND OR AND"])
def test_what_is_not_known_has_to_be_read(licence: str) -> None:
    assert strictness_of(licence) == UNKNOWN
