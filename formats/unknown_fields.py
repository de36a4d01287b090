"""Fields of an adapter_config.json that no table here knows: passed over with a note, or refused.

PEFT passes over what it does not know. A field of a PEFT that is newer than the one known here, or of a fork
of it, may change what the tensors compute all the same.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from formats.errors import Refusal
from formats.peft import CONFIG_FILE
from formats.strict_json import shown

#: The newest release of PEFT whose fields the tables know.
KNOWN_PEFT = (0, 21, 2)

#: Names of switches, and of what forks and the first releases of PEFT compute otherwise with.
_SWITCH = re.compile(
    r"_|(?:use|enable)_|.*_(?:init|experts|groups|nums?|blocks?|scale|scaling)\Z|(?:mora|vera|moe|dora|expert)"
)
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def unknown_field_note(stated: Mapping[str, Any], *, known: Collection[str], refusal: Refusal) -> str | None:
    """The note of fields that are set and change nothing; None if there are none.

    Raises:
        refusal: one may change what the adapter computes.
    """
    # A field that is not set asks for nothing.
    unknown = sorted(field for field in stated if field not in known and stated[field])
    for field in unknown:
        setting = f"{CONFIG_FILE}: the field {shown(field)} = {shown(stated[field])}"
        if _SWITCH.match(field):
            raise refusal(
                f"{setting} is unknown, and called like one that changes what an adapter computes; if it does"
                " not, remove it from the file"
            )
        if _is_newer(stated.get("peft_version")):
            raise refusal(
                f"{setting} is unknown and may be one of PEFT {shown(stated['peft_version'])}, which is newer"
                f" than {'.'.join(map(str, KNOWN_PEFT))}, the newest that is known here; if it does not"
                " change what the adapter computes, remove it from the file"
            )
    if not unknown:
        return None
    names = ", ".join(shown(field, limit=40) for field in unknown[:5])
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    return f"{CONFIG_FILE} has fields that PEFT passes over, and so does the zoo: {names}{more}"


def _is_newer(version: object) -> bool:
    found = _VERSION.match(version) if isinstance(version, str) else None
    return found is not None and tuple(int(part or 0) for part in found.groups()) > KNOWN_PEFT
