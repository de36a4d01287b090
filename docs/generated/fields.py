"""Tables of a dataclass's fields, from the comments `#:` above them."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from docs.generated.errors import TextMissing
from docs.generated.markdown import table

_FIELD = re.compile(r"^    (\w+): ")
_COMMENT = re.compile(r"^    #: (.*)")


def field_table(owner: type[Any]) -> str:
    """Name, default and meaning of every field.

    Raises:
        TextMissing: a field has no comment.
    """
    texts = dict(_comments(inspect.getsource(owner)))
    rows = []
    for field in fields(owner):
        if field.name not in texts:
            raise TextMissing(f"{owner.__name__}.{field.name} has no comment that starts with '#:'")
        rows.append((f"`{field.name}`", f"`{_default(field)}`", texts[field.name]))
    return table(("Field", "Default", "Meaning"), rows)


def _comments(source: str) -> Iterator[tuple[str, str]]:
    said: list[str] = []
    for line in source.splitlines():
        comment, field = _COMMENT.match(line), _FIELD.match(line)
        if comment:
            said.append(comment[1])
        elif field and said:
            yield field[1], " ".join(said)
        if not comment:
            said = []


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return repr(field.default)
    return "required" if field.default_factory is MISSING else repr(field.default_factory())
