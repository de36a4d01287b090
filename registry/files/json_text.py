"""JSON as the registry stores and digests it: one text for one value, accepted by both databases."""

import hashlib
import json
import math
from typing import Any


def as_json(value: Any) -> str:
    """Text that both databases take, with keys in their order, which may mean something; see `canonical`.

    Raises:
        TypeError: the value holds something JSON has no form for.
    """
    return json.dumps(_storable(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> str:
    """Text that is equal for equal values: sorted keys, no spaces; a number that is not finite is null.

    Raises:
        TypeError: the value holds something JSON has no form for.
    """
    return json.dumps(
        _storable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest_of(value: Any) -> str:
    """`sha256:<hex>` of the canonical text."""
    return f"sha256:{hashlib.sha256(canonical(value).encode()).hexdigest()}"


def storable_text(text: str) -> str:
    """The text with NUL and lone surrogates, which databases refuse, replaced by U+FFFD."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value
