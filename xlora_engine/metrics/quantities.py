"""Numbers with their units in answers: `1,200 kg`, `3.2e-4 m/s`, `−5 °C`, `1.2×10^3`."""

import math
import re
from dataclasses import dataclass

#: Numbers beyond it are none: their squares would not be numbers.
_LARGEST = 1e100
#: What may follow a number and is still its unit.
_UNIT = re.compile(r"(?:[^\W\d_]|[%‰°€$£])[\w%‰°/·*^().²³⁻¹−-]{0,23}")

_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-+−–]?)(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?:[eE](?P<exponent>[-+]?\d+)|\s*[×x*·]\s*10\s*(?:\^|\*\*)\s*\(?(?P<power>[-+−]?\d+)\)?)?"
)


@dataclass(frozen=True)
class Quantity:
    """A number and what stands behind it."""

    value: float
    #: Without spaces and a final full stop; case counts, as in mW and MW.
    unit: str


def quantity_of(text: str) -> Quantity | None:
    """The quantity that a whole text is, perhaps after `about` or `=`; None if it is something else."""
    bare = re.sub(r"^(?:[~≈=]|about|approximately|approx\.?|ca\.?)\s*", "", text.strip(), flags=re.IGNORECASE)
    found = _NUMBER.match(bare)
    if found is None:
        return None
    unit = _unit(bare[found.end() :])
    value = _value(found)
    if value is None or (unit and _UNIT.fullmatch(unit) is None):
        return None
    return Quantity(value, unit)


def number_in(answer: str, expected: Quantity) -> float | None:
    """The first number of an answer whose unit is the expected one, or which has none; None without one."""
    for found in _NUMBER.finditer(answer):
        after = _unit(answer[found.end() :])
        if not expected.unit or not after or _begins_with_unit(answer[found.end() :], expected.unit):
            return _value(found)
    return None


def is_close(answer: str, expected: Quantity, *, tolerance: float) -> bool:
    """Whether an answer's number is off by at most this share of what is expected."""
    number = number_in(answer, expected)
    return number is not None and abs(number - expected.value) <= tolerance * abs(expected.value)


def _begins_with_unit(text: str, unit: str) -> bool:
    """Whether the unit stands there, and does not only begin another: `m` is not the unit of `5 min`."""
    letters = r"\s*".join(map(re.escape, unit))
    return re.match(rf"\s*{letters}(?![^\W\d_])", text) is not None


def _unit(text: str) -> str:
    return re.sub(r"\s+", "", text).rstrip(".")


def _value(found: re.Match[str]) -> float | None:
    sign = "-" if found["sign"] in ("-", "−", "–") else ""
    exponent = (found["exponent"] or found["power"] or "0").replace("−", "-")
    value = float(f"{sign}{found['digits'].replace(',', '')}e{exponent}")
    return value if math.isfinite(value) and abs(value) <= _LARGEST else None
