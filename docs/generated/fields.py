"""Tables of the fields of checked values, from the one declaration that checks them too."""

import json
from collections.abc import Mapping
from typing import Any

from docs.generated.errors import TextMissing
from docs.generated.markdown import table
from formats.checked_fields import Checked, allowed_words


def field_table(owner: type[Checked]) -> str:
    """Name, allowed values, default and meaning of every field.

    Raises:
        TextMissing: a field has no description.
    """
    schema = owner.json_schema()
    required = schema.get("required", ())
    rows = []
    for name, field in schema["properties"].items():
        if "description" not in field:
            raise TextMissing(f"{owner.__name__}.{name} has no description")
        default = "required" if name in required else f"`{_default(field)}`"
        rows.append((f"`{name}`", allowed_words(field), default, field["description"]))
    return table(("Field", "Allowed", "Default", "Meaning"), rows)


def _default(field: Mapping[str, Any]) -> str:
    return json.dumps(field.get("default", {} if field.get("type") == "object" else []))
