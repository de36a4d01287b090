"""The table of error codes, from the classes that carry them."""

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from docs.generated.markdown import first_sentence, table

ROOT = Path(__file__).parents[2]
PACKAGES = ("formats", "registry", "xlora_engine", "workers")
_CODE = re.compile(r"ZOO-[EW]\d{3}")
_STATED = re.compile(r'^    code = "ZOO-', re.MULTILINE)


class TextMissing(Exception):
    """Something that users meet has no text, or two things share one name."""


def error_table() -> str:
    """Code, class, exit code and meaning of every error.

    Raises:
        TextMissing: a class has no docstring, or two have one code.
    """
    return rows_of(error_classes())


def rows_of(classes: Iterable[type[BaseException]]) -> str:
    """The table of these classes, by code.

    Raises:
        TextMissing: a class has no docstring, or two have one code.
    """
    by_code: dict[str, type[BaseException]] = {}
    for found in classes:
        code = found.__dict__["code"]
        if code in by_code:
            raise TextMissing(f"{found.__name__} and {by_code[code].__name__} both have the code {code}")
        if not found.__doc__:
            raise TextMissing(f"{found.__module__}.{found.__name__} has a code and no docstring")
        by_code[code] = found
    rows = [
        (f"`{code}`", f"`{found.__name__}`", str(_exit_code(found)), first_sentence(found.__doc__ or ""))
        for code, found in sorted(by_code.items())
    ]
    return table(("Code", "Error", "Exit code", "Meaning"), rows)


def error_classes() -> Iterator[type[BaseException]]:
    """Every exception of ours that states a code of its own."""
    for module in _error_modules():
        for _, found in inspect.getmembers(module, inspect.isclass):
            if found.__module__ == module.__name__ and "code" in found.__dict__:
                yield cast("type[BaseException]", found)


def codes_in_sources(root: Path = ROOT) -> Mapping[str, Path]:
    """Every code that the packages' sources name -> one file that does."""
    return {
        code: path.relative_to(root)
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
        for code in _CODE.findall(path.read_text(encoding="utf-8"))
    }


def require_documented(page: str) -> None:
    """Refuse a page of codes that leaves out one that the sources name.

    Raises:
        TextMissing: it does.
    """
    documented = set(_CODE.findall(page))
    for code, path in codes_in_sources().items():
        if code not in documented:
            raise TextMissing(f"{path} names {code}, which docs/reference/errors.md does not explain")


def _error_modules() -> Iterator[Any]:
    """The modules in which a class states a code; no other is imported."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if _STATED.search(path.read_text(encoding="utf-8")):
                yield importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def _exit_code(found: type[BaseException]) -> int:
    return int(getattr(found, "exit_code", 1))
