"""How each kind of field of an adapter_config.json is read: typed, ranged, refused by its name.

A reader takes the field's name and value (None where absent) and gives what is kept.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from formats.peft import CONFIG_FILE, is_module_path, is_plain_pattern
from formats.strict_json import shown
from registry.errors import AdapterConfigInvalid

ALL_LINEAR = "all-linear"
RANK_LIMIT = 4096
_NAMES_LIMIT = 10_000
_TEXT_LIMIT = 1024
#: Further than any adapter can mean; beyond float32, scalings would be infinite.
_ALPHA_LIMIT = 1e30

Value = TypeVar("Value")
Reader = Callable[[str, Any], Value]


def _refused(field: str, allowed: str, value: object) -> AdapterConfigInvalid:
    return AdapterConfigInvalid(f"{CONFIG_FILE}: {field} must be {allowed}, got {shown(value)}")


def rank(field: str, value: Any) -> int:
    """A whole number in 1..4096; true is none, nor is "8"."""
    if type(value) is not int or not 1 <= value <= RANK_LIMIT:
        raise _refused(field, f"a whole number in 1..{RANK_LIMIT}", value)
    return value


def alpha(field: str, value: Any) -> float:
    """A finite number above 0."""
    if type(value) not in (int, float) or not 0 < value <= _ALPHA_LIMIT:
        raise _refused(field, "a finite number above 0", value)
    return float(value)


def dropout(field: str, value: Any) -> float:
    """A probability below 1; 0 where absent."""
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise _refused(field, "a number from 0 to below 1", value)
    return float(value)


def switch(field: str, value: Any) -> bool:
    """True or false; false where absent."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _refused(field, "true or false", value)
    return value


def text(field: str, value: Any) -> str | None:
    """A short printable text, or None."""
    if value is not None and not (
        isinstance(value, str) and len(value) <= _TEXT_LIMIT and value.isprintable()
    ):
        raise _refused(field, f"a text of at most {_TEXT_LIMIT} printable characters", value)
    return value or None


def names(field: str, value: Any) -> tuple[str, ...]:
    """Plain names only: PEFT takes a text for a regular expression, and a stranger's can run for ever."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not 0 < len(listed) <= _NAMES_LIMIT:
        raise _refused(field, f"a list of module names, or {ALL_LINEAR!r}", value)
    if listed == [ALL_LINEAR]:
        return (ALL_LINEAR,)
    for name in listed:
        if not isinstance(name, str) or not is_module_path(name):
            raise _refused(field, "plain module names (no regular expression), or 'all-linear'", name)
    return tuple(sorted(set(listed)))


def optional_names(field: str, value: Any) -> tuple[str, ...]:
    """The same where leaving the field out, or empty, is allowed."""
    return () if value in (None, []) else names(field, value)


def pattern(check: Reader[Value]) -> Reader[Mapping[str, Value]]:
    """An object from module name to what `check` reads."""

    def read(field: str, value: Any) -> Mapping[str, Value]:
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > _NAMES_LIMIT:
            raise _refused(field, "an object from module name to number", value)
        for name in value:
            if not is_plain_pattern(name):
                raise _refused(field, "keyed by plain module names (no regular expression)", name)
        return {name: check(f"{field}[{shown(name)}]", item) for name, item in value.items()}

    return read


def start(_: str, value: Any) -> bool | str:
    """How training began: what PEFT calls init_lora_weights, of those not refused; true where absent."""
    return value.lower() if isinstance(value, str) else value is not False


def task(field: str, value: Any) -> str | None:
    """CAUSAL_LM, or None where the author left it out."""
    if value not in (None, "CAUSAL_LM"):
        raise _refused(field, "'CAUSAL_LM' or null: experts of a composition generate text", value)
    return "CAUSAL_LM" if value else None


def layers(field: str, value: Any) -> None:
    """A layer number or a list of them, which only training needs."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if len(listed) > _NAMES_LIMIT or not all(type(layer) is int and layer >= 0 for layer in listed):
        raise _refused(field, "a layer number, or a list of them", value)


def mapping(field: str, value: Any) -> None:
    """An object that only training needs."""
    if value is not None and not isinstance(value, dict):
        raise _refused(field, "an object or null", value)


def whole(field: str, value: Any) -> None:
    """A whole number that only training needs."""
    if value is not None and type(value) is not int:
        raise _refused(field, "a whole number", value)
