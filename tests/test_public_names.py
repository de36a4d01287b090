"""What others build on: names and signatures that change on purpose only.

After a change on purpose: python -m tests.test_public_names > tests/public_names.txt
"""

import inspect
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xlora_engine
from registry.entities import NewEvaluation
from registry.service import Registry
from registry.settings import Settings

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "public_names.txt"


def described() -> Iterator[str]:
    """Every public name, a line each, with its parameters and their defaults."""
    for name in xlora_engine.__all__:
        yield from members(f"xlora_engine.{name}", getattr(xlora_engine, name))
    yield from members("registry.Registry", Registry)
    unused: Any = None
    for noun, value in vars(Registry(Settings.from_env({}), database=unused, artifacts=unused)).items():
        if not noun.startswith("_") and noun not in {"settings", "artifacts"}:
            yield from members(f"registry.Registry.{noun}", type(value))
    for record in (Settings, NewEvaluation):
        yield from members(f"{record.__module__}.{record.__name__}", record)


def members(path: str, cls: type) -> Iterator[str]:
    """A class, and what it and its ancestors of ours define."""
    yield f"{path}{parameters(cls)}"
    ours = [one for one in cls.__mro__ if one.__module__.startswith(("registry.", "xlora_engine."))]
    names = {name for one in ours for name in vars(one) if not name.startswith(("_", "model_"))}
    for name in sorted(names):
        value = getattr(cls, name)
        yield f"{path}.{name}{parameters(value) if callable(value) else ''}"


def parameters(function: object) -> str:
    """As in a signature, without annotations."""
    assert callable(function)
    signature = inspect.signature(function)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def test_public_names_are_those_recorded() -> None:
    recorded = RECORDED.read_text(encoding="utf-8").splitlines()
    assert list(described()) == recorded, inspect.cleandoc(__doc__ or "").splitlines()[-1]


@pytest.mark.parametrize("package", ["formats", "registry", "workers", "xlora_engine"])
def test_type_checkers_of_others_see_our_types(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (ROOT / package / "py.typed").read_bytes() == b""
    assert "py.typed" in project["tool"]["setuptools"]["package-data"][package]
    assert f"{package}*" in project["tool"]["setuptools"]["packages"]["find"]["include"]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in described())
