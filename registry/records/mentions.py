"""Where requests and training settings name other records: a table of their fields. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: Kind of record -> fields of a job's request or of an adapter's parameters that name records of this kind,
#: alone, in a list, or as keys or values of an object.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "adapter": ("adapters", "initial_adapter", "merged_from"),
    "dataset": (
        *("train_dataset", "eval_dataset", "further_data", "datasets"),
        *("data", "corpora", "eval_data", "mixed_datasets"),
    ),
    "base": ("base",),
    "composition": (),
}

#: A field that names records of any kind, each written like `adapter:bio@3`.
_OF_ANY_KIND = "subjects"


def mentioned(facts: Mapping[str, Any], *, kind: str, reference: str) -> tuple[str, ...]:
    """The fields in which a request or settings name this record."""
    direct = [field for field in FIELDS[kind] if reference in texts_in(facts.get(field))]
    as_subject = f"{kind}:{reference}" in texts_in(facts.get(_OF_ANY_KIND))
    return (*direct, *([_OF_ANY_KIND] if as_subject else []))


def texts_in(value: object) -> Iterator[str]:
    """A text, or those in a list, or among the keys and values of an object."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for entry in value.items() for text in entry if isinstance(text, str))
    elif isinstance(value, Sequence):
        yield from (entry for entry in value if isinstance(entry, str))
