"""Labels: what a person writes about a record, kept as written or refused by name of the field."""

import pytest

from registry.errors import InvalidField, InvalidName
from registry.records.labels import checked_labels, checked_licence, checked_line, checked_page


def test_labels_are_kept_once_in_their_order() -> None:
    assert checked_labels(["bio", "med", "bio"], kind="domain") == ["bio", "med"]


def test_a_label_is_a_name() -> None:
    with pytest.raises(InvalidName, match="tag name 'a b'"):
        checked_labels(["a b"], kind="tag")


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "\x1b[31m", "\ud800", "x" * 1025])
def test_a_line_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="origin must be one line"):
        checked_line(text, field="origin")


def test_a_page_may_have_lines_but_no_control_characters() -> None:
    assert checked_page("# Title\n\tüber 😀\n", field="description") == "# Title\n\tüber 😀\n"
    for text in ("a\0b", "\x1b[31m", "x" * 65537):
        with pytest.raises(InvalidField, match="description"):
            checked_page(text, field="description")


def test_a_licence_may_be_unknown() -> None:
    assert checked_licence(None) is None
    assert checked_licence("Apache-2.0") == "Apache-2.0"
