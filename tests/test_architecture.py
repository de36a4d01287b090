"""Imports run one way: zoo.py → workers → {registry, xlora_engine} → formats; heavy libraries stay apart."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: package -> what its modules may not import, directly
FORBIDDEN = {
    "formats": {"registry", "xlora_engine", "workers", "torch", "numpy", "sqlalchemy", "click"},
    "registry": {"xlora_engine", "workers", "torch", "transformers", "peft", "celery", "mlflow"},
    "xlora_engine": {"registry", "workers", "sqlalchemy", "alembic", "celery", "redis", "mlflow", "click"},
    "migrations/versions": {"registry", "workers", "xlora_engine", "torch"},
}


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_it_must_not_know(package: str) -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / package).rglob("*.py")
        for name in imported_names(path)
        if name.partition(".")[0] in FORBIDDEN[package]
    }
    assert not found


def test_only_the_tracking_module_imports_mlflow() -> None:
    importers = {
        path.name
        for path in (ROOT / "workers").rglob("*.py")
        if any(name.partition(".")[0] == "mlflow" for name in imported_names(path))
    }
    assert importers == {"mlflow_store.py"}


def modules(package: str) -> list[str]:
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / package).rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"}
    )


def test_what_the_command_line_needs_at_once_imports_no_heavy_library() -> None:
    code = (
        "import sys, zoo, registry.lists.queries, registry.commands.output\n"
        "import registry.commands.adapters, registry.commands.jobs\n"
        "heavy = {'torch', 'transformers', 'peft', 'mlflow', 'sqlalchemy', 'alembic', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_supervising_side_of_a_job_never_imports_torch() -> None:
    # The trainer's program too: that of a job in several processes does no work itself.
    sides = "workers.attempts.runner, workers.attempts.job_process"
    code = f"import sys, {sides}\nassert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("package", ["registry", "workers", "xlora_engine"])
def test_no_module_is_longer_than_two_concepts(package: str) -> None:
    long = {
        name: count
        for name in modules(package)
        if (count := len((ROOT / name.replace(".", "/")).with_suffix(".py").read_text().splitlines())) > 400
    }
    assert not long
