"""All that is wrong with a folder, collected, so that one message says it and not one a try."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from registry.errors import InvalidAdapter

Result = TypeVar("Result")


class Problems:
    """The refusals of several checks of one folder; true if there are any."""

    def __init__(self) -> None:
        self._found: list[InvalidAdapter] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def attempt(self, check: Callable[[], Result]) -> Result | None:
        """The result of a check; None, and its refusal noted, if it refuses."""
        try:
            return check()
        except InvalidAdapter as problem:
            if str(problem) not in map(str, self._found):
                self._found.append(problem)
            return None

    def error(self, folder: Path) -> InvalidAdapter:
        """What was noted: a single refusal as it was, several as one, of the class that all of them have."""
        if len(self._found) == 1:
            return self._found[0]
        kinds = {type(problem) for problem in self._found}
        kind = kinds.pop() if len(kinds) == 1 else InvalidAdapter
        lines = [f"{len(self._found)} things are wrong with {folder}:", *map(str, self._found)]
        return kind("\n  ".join(lines))
