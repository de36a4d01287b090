"""JSON text: equal for equal values, and always something both databases take."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.files.json_text import canonical, digest_of, storable_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_order_of_keys_and_kind_of_sequence_do_not_count() -> None:
    assert canonical({"b": 1, "a": (1, 2)}) == canonical({"a": [1, 2], "b": 1}) == '{"a":[1,2],"b":1}'
    assert digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_a_digest_is_sha256_in_hexadecimal() -> None:
    assert digest_of({}) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_becomes_null(value: float) -> None:
    assert canonical({"loss": [value]}) == '{"loss":[null]}'


def test_what_no_database_takes_is_replaced() -> None:
    assert storable_text("a\0b\ud800c😀") == "a\ufffdb\ufffdc😀"
    assert canonical({"\0": "\udfff"}) == '{"\ufffd":"\ufffd"}'


@given(VALUES)
def test_every_value_becomes_text_that_reads_back(value: object) -> None:
    text = canonical(value)
    assert "\0" not in text
    assert canonical(json.loads(text)) == text
    text.encode()


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError):
        canonical({"a": object()})
