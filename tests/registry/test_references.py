"""References: the five forms, texts of none of them, and similar names."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidName, InvalidReference
from registry.references import Reference, checked_alias, checked_name, nearest, parse

FORMS = {
    "bio": Reference(name="bio"),
    "bio@3": Reference(name="bio", version=3),
    "bio@champion": Reference(name="bio", alias="champion"),
    "bio@v2": Reference(name="bio", alias="v2"),
    "bio@sha256:ab12": Reference(name="bio", digest_prefix="ab12"),
    f"sha256:{'0f' * 32}": Reference(name=None, digest_prefix="0f" * 32),
}

#: Names that would lead out of a folder, run code in a shell, or look like something else.
BAD_NAMES = [
    "", ".", "..", "../x", "..\\x", "/abs", "a/../../b", "%2e%2e%2f", "a\0b", "-rf", ".hidden", "_x", "a b",
    "bio\n", "\u0430dapter", "bio;id", "x" * 129, "a:b", "a@b", "bio\u200b", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMS)
def test_each_form_is_written_as_it_was_read(text: str) -> None:
    assert parse(text) == FORMS[text]
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "@3", "bio@", "bio@0", "bio@-1", "bio@007", "bio@1234567890", "bio@sha256:abc", "bio@sha256:XYZ1",
     "bio@md5:abcd", "bio@3@4", "bio @3", "bio@3\n", "sha256:ab", "a/b", "bio@../x"],
)  # fmt: skip
def test_anything_else_is_refused_with_the_forms_that_are_allowed(text: str) -> None:
    with pytest.raises(InvalidReference, match="bio@champion"):
        parse(text)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_outside_the_rule_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="adapter name"):
        checked_name(name, kind="adapter")


@pytest.mark.parametrize("name", ["a", "9", "Bio_2.final-v3", "x" * 128])
def test_a_name_within_the_rule_is_kept_as_it_is(name: str) -> None:
    assert checked_name(name, kind="adapter") == name


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True), st.integers(1, 10**9 - 1))
def test_every_allowed_name_with_a_number_is_read_back(name: str, version: int) -> None:
    assert parse(f"{name}@{version}") == Reference(name=name, version=version)


@given(st.text(max_size=40))
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    with suppress(InvalidReference):
        assert str(parse(text)) == text


def test_an_alias_cannot_look_like_a_version() -> None:
    assert checked_alias("champion") == "champion"
    with pytest.raises(InvalidName, match="taken for a version"):
        checked_alias("3")
    with pytest.raises(InvalidName):
        checked_alias("sha256:ab12")


def test_similar_names_are_sorted_by_similarity_ignoring_case() -> None:
    assert nearest("protien", ["materials", "protein", "Proteins"]) == ("protein", "Proteins")
    assert nearest("BIO", ["bio", "physics"]) == ("bio",)
    assert nearest("xyz", ["bio", "physics"]) == ()


@pytest.mark.parametrize("name", ["base", "uniform", "composed"])
def test_a_subject_of_reports_is_no_adapters_name(name: str) -> None:
    with pytest.raises(InvalidName, match=f"adapter name '{name}' is not allowed: reports use"):
        checked_name(name, kind="adapter")
    assert checked_name(name, kind="dataset") == name
