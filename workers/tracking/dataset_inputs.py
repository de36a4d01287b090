"""A dataset that a run reads, as MLflow shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.entities import DatasetVersion

#: Columns of an example, as MLflow describes columns.
_SCHEMA = {
    "mlflow_colspec": [
        {
            "name": "messages",
            "type": "array",
            "required": True,
            "items": {
                "type": "object",
                "properties": {
                    "role": {"type": "string", "required": True},
                    "content": {"type": "string", "required": True},
                },
            },
        },
        {"name": "domain", "type": "string", "required": False},
    ]
}


@dataclass(frozen=True, kw_only=True)
class DatasetInput:
    """A dataset of the zoo, and what a run reads it for."""

    #: `bio.train@1`.
    name: str
    digest: str
    #: Where it came from.
    uri: str
    examples: int
    size_bytes: int
    #: "training" or "evaluation".
    context: str
    schema: Mapping[str, Any]

    @classmethod
    def of(cls, record: DatasetVersion, *, context: str) -> "DatasetInput":
        """A dataset on record, read for `context`."""
        return cls(
            name=record.reference,
            digest=record.digest,
            uri=f"zoo:{record.reference} ({record.origin})",
            examples=record.examples,
            size_bytes=record.size_bytes,
            context=context,
            schema=_SCHEMA,
        )
