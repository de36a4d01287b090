"""A row of the result: one figure, with its bar where it has one."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure."""

    part: str
    what: str
    value: float | None
    unit: str = ""
    #: The value at most; None: no bar.
    at_most: float | None = None
    #: The value at least.
    at_least: float | None = None
    #: Why there is no value, or how it was measured.
    note: str = ""

    @property
    def met(self) -> str:
        """`yes`, `no`, or nothing where there is no bar."""
        if self.at_most is None and self.at_least is None:
            return ""
        if self.value is None:
            return "no"
        above = self.at_most is not None and self.value > self.at_most
        below = self.at_least is not None and self.value < self.at_least
        return "no" if above or below else "yes"

    @property
    def bar(self) -> str:
        """The bar in words."""
        parts = [] if self.at_most is None else [f"at most {self.at_most:g}"]
        parts += [] if self.at_least is None else [f"at least {self.at_least:g}"]
        return ", ".join(parts)

    def append_to(self, path: Path) -> None:
        """Write it at the end of a file, a JSON object a line: a part that is cut leaves what it has."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> list[Self]:
        """The rows of a file, in order; none if it was never written."""
        if not path.exists():
            return []
        return [cls(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| part | what | value | bar | met | note |", "|---|---|---|---|---|---|"]
    for row in rows:
        value = "–" if row.value is None else f"{row.value:.4g} {row.unit}".strip()
        lines.append(f"| {row.part} | {row.what} | {value} | {row.bar} | {row.met} | {row.note} |")
    return "\n".join(lines)
