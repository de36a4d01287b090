"""Regular expressions of strangers, in bounded time: in a process of their own, which can be ended.

Python's `re` takes for ever on some, and nothing inside the process stops it. Another engine would take
other things for a match than PEFT does.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from formats.module_names import is_module_path

#: All expressions of one call together.
LIMIT_SECONDS = 5.0

Value = TypeVar("Value")

_PROGRAM = (
    f"LIMIT_BYTES = {1 << 30}"
    """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
texts, expressions = json.load(sys.stdin)
for whole, expression in expressions:
    try:
        match = (re.fullmatch if whole else re.match)
        tried = [match(expression, text) for text in texts]
        found = [None if m is None else m.groupdict().get("idx") or "" for m in tried]
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        found = str(error) or type(error).__name__
    print(json.dumps(found), flush=True)
"""
)


class PatternRefused(ValueError):
    """An expression that is none, or takes too long; the message says which and what to do."""


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A regular expression of Python's `re`."""

    text: str
    #: Whether the whole text has to match, not its beginning.
    whole: bool


@functools.lru_cache(maxsize=64)
def matches(
    expressions: tuple[Expression, ...], texts: tuple[str, ...]
) -> tuple[tuple[str | None, ...], ...]:
    """For each expression, for each text: its group `idx`, empty without one; None where it does not match.

    Raises:
        PatternRefused: one is no expression, or all together take longer than `LIMIT_SECONDS`.
    """
    given = json.dumps([texts, [(e.whole, e.text) for e in expressions]]).encode()
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=LIMIT_SECONDS, check=True)
        lines = done.stdout.splitlines()
    except subprocess.TimeoutExpired as late:
        finished = (late.stdout or b"").count(b"\n")
        raise PatternRefused(
            f"the regular expression {_shown(expressions[finished].text)} takes longer than"
            f" {LIMIT_SECONDS:g} s; write module names instead"
        ) from None
    except subprocess.CalledProcessError as failed:
        raise PatternRefused(f"the regular expressions cannot be tried: {failed.stderr[-200:]!r}") from failed
    found = [json.loads(line) for line in lines]
    for expression, entry in zip(expressions, found, strict=True):
        if isinstance(entry, str):
            raise PatternRefused(f"{_shown(expression.text)} is no regular expression: {entry}")
    return tuple(tuple(entry) for entry in found)


def is_plain_pattern(text: str) -> bool:
    """Whether a pattern is a module's name, anchored by `^` perhaps, and no regular expression."""
    return is_module_path(text.removeprefix("^"))


def by_pattern(patterns: Mapping[str, Value], path: str, *, default: Value) -> Value:
    """The value of the first plain pattern that is the path, or ends it after a dot unless it has a `^`."""
    for name, value in patterns.items():
        plain = name.removeprefix("^")
        if path == plain or (plain == name and path.endswith(f".{plain}")):
            return value
    return default


def by_patterns(patterns: Mapping[str, Value], paths: Sequence[str], *, default: Value) -> dict[str, Value]:
    """Path -> the value of the first pattern that fits it, plain or not.

    Raises:
        PatternRefused: as `matches` does.
    Source: peft 0.21.2, `get_pattern_key`.
    """
    if all(map(is_plain_pattern, patterns)):
        return {path: by_pattern(patterns, path, default=default) for path in paths}
    expressions = tuple(Expression(text=rf"(.*\.)?({key})$", whole=False) for key in patterns)
    fits = matches(expressions, tuple(paths))
    return {
        path: next(
            (v for v, row in zip(patterns.values(), fits, strict=True) if row[at] is not None), default
        )
        for at, path in enumerate(paths)
    }


def resolved_patterns(
    patterns: Mapping[str, Value], paths: Mapping[str, str], *, default: Value
) -> dict[str, Value]:
    """The same values by plain paths: of every path whose value is not the default, by its new name.

    `paths` maps a path that the patterns are tried on to its new name.
    """
    found = by_patterns(patterns, tuple(paths), default=default)
    return {name: found[path] for path, name in paths.items() if found[path] != default}


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:80]}…")
