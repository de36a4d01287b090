"""Strict JSON for untrusted files: UTF-8 without BOM, no NaN, no duplicate keys, no depth bombs."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from formats.errors import Refusal

_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class _NotStrict(ValueError):
    """Valid for Python's parser, but refused here."""


def parse(data: bytes, *, what: str, refusal: Refusal) -> Any:
    """The value in `data`; a refusal's message begins with `what`.

    Raises:
        refusal: the bytes are not UTF-8 without a byte order mark, or not one JSON value, or hold a
            duplicate key, a number that is not finite, an unpaired surrogate or too deep a nesting.
    """
    if data.startswith(_MARKS):
        raise refusal(f"{what} starts with a byte order mark; save it as UTF-8 without one")
    try:
        value = json.loads(data.decode("utf-8"), **_HOOKS)
        _require_text(value)
    except UnicodeDecodeError as exc:
        raise refusal(f"{what} is not UTF-8: byte {exc.start} is {data[exc.start]:#04x}") from exc
    except (UnicodeEncodeError, RecursionError, ValueError) as exc:
        raise refusal(f"{what} {_complaint(exc)}") from exc
    return value


def parse_next(text: str, start: int, *, what: str, refusal: Refusal) -> tuple[Any, int]:
    """The JSON value that begins at a position of a text, and where it ends.

    Raises:
        refusal: as `parse`.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
        _require_text(value)
    except (UnicodeEncodeError, RecursionError, ValueError) as exc:
        raise refusal(f"{what} {_complaint(exc)}") from exc
    return value, end


def parse_object(data: bytes, *, what: str, refusal: Refusal) -> dict[str, Any]:
    """The same, for a file or line that must hold one JSON object."""
    value = parse(data, what=what, refusal=refusal)
    if not isinstance(value, dict):
        raise refusal(f"{what} must hold a JSON object, got {shown(value)}")
    return value


def read_object(path: Path, *, refusal: Refusal) -> dict[str, Any]:
    """The JSON object in a file, which may be a link, as those of a hub's cache are.

    Raises:
        refusal: the file cannot be read, or holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise refusal(f"cannot read {path}: {exc}") from exc
    return parse_object(data, what=f"cannot read {path}: it", refusal=refusal)


def has_key(value: Any, key: str) -> bool:
    """Whether an object anywhere inside `value` has this key."""
    if isinstance(value, dict):
        return key in value or any(has_key(item, key) for item in value.values())
    return isinstance(value, list) and any(has_key(item, key) for item in value)


def shown(value: Any, *, limit: int = 80) -> str:
    """A value as it goes into a message: on one line, printable, and short."""
    text = repr(value) if isinstance(value, int | float) else ascii(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        key, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _NotStrict(f"the key {shown(key)} is there twice")
    return found


def _constant(name: str) -> NoReturn:
    raise _NotStrict(f"{name} is no JSON number")


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotStrict(f"the number {shown(text)} is too large")
    return number


_HOOKS: dict[str, Any] = {
    "object_pairs_hook": _object,
    "parse_constant": _constant,
    "parse_float": _number,
}
_DECODER = json.JSONDecoder(**_HOOKS)


def _require_text(value: Any) -> None:
    # An unpaired \ud800 parses, but no database or file system takes it.
    json.dumps(value, ensure_ascii=False).encode("utf-8")


def _complaint(error: Exception) -> str:
    match error:
        case UnicodeEncodeError():
            return "holds an unpaired surrogate, which is no text"
        case RecursionError():
            return "is nested too deeply to be read"
        case json.JSONDecodeError(lineno=1):
            return f"is not JSON: {error.msg} at column {error.colno}"
        case json.JSONDecodeError():
            return f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        case _:  # ours above, and Python's own limit on the digits of a whole number
            return f"is not accepted: {error}"
