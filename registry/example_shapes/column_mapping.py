"""Which column is what, where the names do not tell: `prompt=question,completion=answer`."""

from collections.abc import Mapping
from typing import Any

from registry.errors import InvalidDataset, InvalidField
from registry.references import nearest

#: What a column can be.
TARGETS = ("prompt", "completion", "system", "messages", "tools", "text", "domain")
_ENOUGH = ({"prompt", "completion"}, {"messages"}, {"text"})


def parsed_mapping(given: str) -> Mapping[str, str]:
    """What is to be read -> the column it is in.

    Raises:
        InvalidField: it is not written like `prompt=question,completion=answer`, or is not enough for an
            example.
    """
    pairs = [part.partition("=") for part in given.split(",")]
    mapping = {target.strip(): column.strip() for target, _, column in pairs}
    allowed = f"pairs such as prompt=question,completion=answer, of {', '.join(TARGETS)}"
    if len(mapping) != len(pairs) or not all(sign and column.strip() for _, sign, column in pairs):
        raise InvalidField("map", allowed, given)
    if strangers := sorted(set(mapping) - set(TARGETS)):
        raise InvalidField("map", allowed, strangers[0])
    if sum(set(mapping) >= enough for enough in _ENOUGH) != 1:
        raise InvalidField("map", "enough for one example: prompt and completion, messages, or text", given)
    return mapping


def mapped(values: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """The columns that were named, and no others, under what they are.

    Raises:
        InvalidDataset: a column is not there.
    """
    for column in mapping.values():
        if column not in values:
            close = nearest(column, map(str, values))
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise InvalidDataset(f"no column {column!r} among {', '.join(map(repr, values))}{hint}")
    return {target: values[column] for target, column in mapping.items()}
