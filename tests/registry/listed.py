"""What a noun of the registry lists, as references: for tests that ask what is there."""

from typing import Any


def listed(noun: Any, **filters: Any) -> list[str]:
    return [str(row["reference"]) for row in noun.list(**filters)]
