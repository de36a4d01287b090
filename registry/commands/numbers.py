"""Numbers on the command line, as far as the database and a clock can hold them."""

import math
from typing import Any

import click

#: The largest INTEGER of PostgreSQL; SQLite's is larger.
LARGEST_INTEGER = 2**31 - 1

#: How many of something.
COUNT = click.IntRange(1, LARGEST_INTEGER)


class Duration(click.FloatRange):
    """Seconds that end: not a number is smaller and larger than nothing, so a range alone accepts it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A finite number in the range."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return seconds
