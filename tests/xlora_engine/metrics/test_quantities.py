"""Quantities in answers: how numbers are written, which unit they have, how far off they may be."""

import pytest

from xlora_engine.metrics.quantities import Quantity, is_close, number_in, quantity_of


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("12", Quantity(12, "")),
        ("-3.5 °C", Quantity(-3.5, "°C")),
        ("−5 K.", Quantity(-5, "K")),
        ("1,234.5 kg", Quantity(1234.5, "kg")),
        ("about 7 mm", Quantity(7, "mm")),
        ("1.2e-3 m / s", Quantity(0.0012, "m/s")),
        ("6.02×10^23", Quantity(6.02e23, "")),
        ("3 * 10**4 Pa", Quantity(3e4, "Pa")),
        (".5", Quantity(0.5, "")),
        ("45%", Quantity(45, "%")),
    ],
)
def test_a_number_with_its_unit_is_a_quantity(text: str, quantity: Quantity) -> None:
    assert quantity_of(text) == quantity


@pytest.mark.parametrize(
    "text",
    [
        "Y Pb",
        "",
        "twelve",
        "5 out of the 12 that were there today",
        "2024-05-01",
        "5'; polar",
        "9" * 200,
        "1e400",
    ],
)
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert quantity_of(text) is None


@pytest.mark.parametrize(
    ("answer", "expected", "number"),
    [
        ("It is 5 kg.", "5 kg", 5),
        ("Of 3 samples it is 5 kg.", "5 kg", 5),
        ("5", "5 kg", 5),
        ("5 mW", "5 MW", None),
        ("5 min", "5 m", None),
        ("5 m in total", "5 m", 5),
        ("Carbon-14 decays in 5730 years", "5730 years", 5730),
        ("none", "5", None),
    ],
)
def test_an_answer_gives_the_first_number_in_the_expected_unit(
    answer: str, expected: str, number: float | None
) -> None:
    quantity = quantity_of(expected)
    assert quantity is not None
    assert number_in(answer, quantity) == number


@pytest.mark.parametrize(
    ("answer", "is_right"), [("101", True), ("99", True), ("101.1", False), ("98.9", False)]
)
def test_a_number_may_be_off_by_the_tolerance(answer: str, is_right: bool) -> None:
    assert is_close(answer, Quantity(100, ""), tolerance=0.01) is is_right
