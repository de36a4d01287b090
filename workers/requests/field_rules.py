"""What a field of a request may hold: rules as dataclass metadata, and the one function that applies them.

Knows no particular request; `workers.requests.specs` names the fields.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.errors import SpecInvalid

_RULE = "rule"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is allowed, in words for the message and as a test for the value, and the form it is kept in."""

    allowed: str
    holds: Callable[[Any], bool]
    keep: Callable[[Any], Any] = lambda value: value


def integer(low: int, high: int, *, default: int | None = None) -> Any:
    """A whole number in low..high; a boolean or a string is not one."""
    rule = Rule(
        allowed=f"a whole number in {low}..{high}",
        holds=lambda value: type(value) is int and low <= value <= high,
    )
    return _field(rule, default)


def number(low: float, high: float, *, default: float | None = None, above: bool = False) -> Any:
    """A finite number in low..high, `low` itself excluded when `above`."""
    rule = Rule(
        allowed=f"a number {'above' if above else 'from'} {low:g} to {high:g}",
        holds=lambda value: _is_number(value) and (value > low if above else value >= low) and value <= high,
        keep=float,
    )
    return _field(rule, default)


def yes_or_no(*, default: bool) -> Any:
    """A boolean."""
    return _field(Rule(allowed="true or false", holds=lambda value: isinstance(value, bool)), default)


def text(*, length: int, default: str | None = None, empty: bool = False) -> Any:
    """A string of at most `length` characters."""
    rule = Rule(
        allowed=f"{'at most' if empty else '1 to'} {length} characters of text",
        holds=lambda value: (
            isinstance(value, str) and len(value) <= length and (empty or bool(value.strip()))
        ),
    )
    return _field(rule, default)


def texts(*, least: int, default: tuple[str, ...] | None = None) -> Any:
    """A list of different, non-empty strings, `least` of them or more."""
    rule = Rule(
        allowed=f"a list of {least} or more different, non-empty names",
        holds=lambda value: _are_names(value) and len(value) >= least and len(set(value)) == len(value),
        keep=tuple,
    )
    return _field(rule, default)


def named_texts(*, least: int, default: Callable[[], Mapping[str, str]] | None = None) -> Any:
    """A mapping of names to non-empty strings, `least` entries or more."""
    rule = Rule(
        allowed=f"{least} or more entries name -> reference, none of them empty",
        holds=lambda value: (
            isinstance(value, Mapping)
            and len(value) >= least
            and _are_names(tuple(value))
            and _are_names(tuple(value.values()))
        ),
        keep=dict,
    )
    return _field(rule, default_factory=default)


def settings() -> Any:
    """A mapping of option names to JSON values; whoever uses it checks them."""
    rule = Rule(
        allowed="a mapping of option names to JSON values",
        holds=lambda value: isinstance(value, Mapping) and _is_json(value),
        keep=dict,
    )
    return _field(rule, default_factory=dict)


def optional(field: Any) -> Any:
    """The same rule, or None, which is also the default."""
    rule: Rule = field.metadata[_RULE]
    loose = Rule(
        allowed=f"{rule.allowed}, or left out",
        holds=lambda value: value is None or rule.holds(value),
        keep=lambda value: None if value is None else rule.keep(value),
    )
    return dataclasses.field(default=None, metadata={_RULE: loose})


def settle(spec: Any) -> None:
    """Bring each field of a frozen dataclass under construction into the form its rule keeps.

    Equal requests then have equal fields: lists become tuples, whole numbers of a real field become floats.

    Raises:
        SpecInvalid: for the first field whose value its rule does not allow.
    """
    for field in dataclasses.fields(spec):
        rule: Rule = field.metadata[_RULE]
        value = getattr(spec, field.name)
        if not rule.holds(value):
            raise SpecInvalid(field.name, allowed=rule.allowed, value=value)
        object.__setattr__(spec, field.name, rule.keep(value))


def _field(rule: Rule, default: object = None, default_factory: Callable[[], Any] | None = None) -> Any:
    metadata = {_RULE: rule}
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    if default is None:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _are_names(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(isinstance(value, str) and value.strip() for value in values)
    )


def _is_json(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(entry) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (str, bool)) or _is_number(value)
