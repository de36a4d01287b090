"""Checked values: what they refuse and in which words, how they are stored, and what their schema says."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, JsonValue
from pydantic.dataclasses import dataclass

from formats.checked_fields import CHECKED, Checked, Distinct, Text, allowed_words
from formats.errors import InvalidField


class OvenInvalid(InvalidField):
    """As a package derives it."""

    code = "ZOO-E999"


@dataclass(frozen=True, kw_only=True, config=CHECKED)
class Oven(Checked):
    """Something with a field of every type."""

    what: ClassVar[str] = "an oven"
    refusal: ClassVar[type[InvalidField]] = OvenInvalid

    maker: Text
    trays: int = Field(default=2, ge=1, le=9)
    degrees: float = Field(default=180.0, gt=0, le=300)
    share: float = Field(default=0.5, ge=0, lt=1)
    fan: bool = False
    heat: Literal["gas", "power"] = "power"
    place: Literal["floor"] = "floor"
    serial: int | None = Field(default=None, ge=1)
    dishes: Distinct[Text] = Field(default=(), max_length=3)
    timers: Mapping[Text, int] = Field(default_factory=dict)
    extra: Mapping[str, JsonValue] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fan and self.heat == "gas":
            raise self.refusal("fan", "off where heat is gas", True)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("maker", "", "maker must be 1 to 256 characters of text, got ''"),
        ("maker", "\n", "maker must be 1 to 256 characters of text, got '\\n'"),
        ("maker", None, "maker must be 1 to 256 characters of text, got None"),
        ("trays", 10, "trays must be a whole number in 1..9, got 10"),
        ("trays", True, "trays must be a whole number in 1..9, got True"),
        ("trays", 2.0, "trays must be a whole number in 1..9, got 2.0"),
        ("trays", "2", "trays must be a whole number in 1..9, got '2'"),
        ("degrees", 0, "degrees must be a number above 0 to 300, got 0"),
        ("degrees", float("inf"), "degrees must be a number above 0 to 300, got inf"),
        ("degrees", True, "degrees must be a number above 0 to 300, got True"),
        ("share", 1, "share must be a number from 0 to below 1, got 1"),
        ("fan", 1, "fan must be true or false, got 1"),
        ("heat", "sun", "heat must be one of gas, power, got 'sun'"),
        ("serial", 0, "serial must be a whole number of at least 1, or left out, got 0"),
        ("timers", {"a": "1"}, "timers.a must be a whole number, got '1'"),
        ("timers", {"": 1}, "timers must be entries name -> a whole number, got ''"),
        ("extra", {"a": {1}}, "extra.a must be a JSON value, got {1}"),
        ("extra", [], "extra must be an object of JSON values, got []"),
        ("place", "wall", "place must be 'floor', got 'wall'"),
        ("tray", 3, "tray must be left out, as an oven has no such field (did you mean trays?), got 3"),
    ],
)
def test_a_field_is_refused_by_name_with_what_is_allowed_and_what_was_given(
    field: str, value: object, said: str
) -> None:
    with pytest.raises(OvenInvalid) as refused:
        Oven(**{"maker": "x", field: value})  # type: ignore[arg-type]
    assert str(refused.value) == said
    assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize("dishes", [["a", "a"], "ab", ["a", ""], {"a", "b"}, ["a", 1], list("abcd")])
def test_a_list_holds_different_texts_in_an_order(dishes: Any) -> None:
    with pytest.raises(OvenInvalid, match=r"^dishes must be a list of 0 to 3 different entries"):
        Oven(maker="x", dishes=dishes)


def test_an_unknown_field_is_named_rather_than_the_one_that_it_leaves_missing() -> None:
    with pytest.raises(OvenInvalid, match=r"^makr must be left out"):
        Oven.from_json({"makr": "x"})
    with pytest.raises(OvenInvalid, match=r"^maker must be given in an oven, got None$"):
        Oven.from_json({})
    with pytest.raises(OvenInvalid, match=r"^an oven must be an object of fields, got \['maker'\]$"):
        Oven.from_json(["maker"])  # type: ignore[arg-type]


def test_a_rule_about_two_fields_raises_the_same_error_also_where_a_copy_breaks_it() -> None:
    gas = Oven(maker="x", heat="gas")
    with pytest.raises(OvenInvalid, match="fan must be off where heat is gas"):
        dataclasses.replace(gas, fan=True)


def test_equal_values_are_stored_equally_however_they_were_written() -> None:
    written = Oven(maker="x", degrees=200, dishes=["b", "a"])  # type: ignore[arg-type]  # as from JSON
    same = Oven(maker="x", degrees=200.0, dishes=("b", "a"))
    assert written == same == Oven.from_json(written.to_json())
    assert written.to_json() == {
        "maker": "x",
        "trays": 2,
        "degrees": 200.0,
        "share": 0.5,
        "fan": False,
        "heat": "power",
        "place": "floor",
        "serial": None,
        "dishes": ["b", "a"],
        "timers": {},
        "extra": {},
    }
    assert isinstance(written.to_json()["degrees"], float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        written.trays = 3  # type: ignore[misc]


def test_a_schemas_own_words_for_what_is_allowed_come_first() -> None:
    assert allowed_words({"type": "string", "allowed": "a colour"}) == "a colour"
    assert allowed_words({"type": "string"}) == "text"
    assert allowed_words({"type": "number"}) == "a finite number"
