"""The error of a failed check, for all packages: it names the field, the value, and what is allowed."""

from collections.abc import Callable
from typing import Self

#: Makes the error that a refusal raises from its message: a class of the caller's, as a rule.
Refusal = Callable[[str], Exception]


class InvalidField(Exception):
    """A field of a request, a configuration or a setting is outside its allowed values.

    Packages derive a class of their own, so that it has their root and a code of theirs, and add nothing.
    """

    code = "ZOO-E100"
    exit_code = 2
    reason = "bad_input"

    def __init__(self, field: str, allowed: str, value: object) -> None:
        super().__init__(f"{field} must be {allowed}, got {value!r}")
        self.field = field
        self.allowed = allowed
        self.value = value

    def renamed(self, field: str) -> Self:
        """The same error, the field called as its user calls it, `--learning-rate` for example."""
        return type(self)(field, self.allowed, self.value)
