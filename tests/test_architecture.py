"""Imports run one way, between packages and between the rooms inside each; heavy libraries stay where used.

Every import counts: at the top of a module, inside a function, and for type checkers only.
"""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Each may import those before it.
PACKAGES = ("formats", "xlora_engine", "registry", "workers", "service", "zoo")

#: Neither knows the other, though one of them has to come first above.
APART = {"xlora_engine", "registry"}

#: The rooms of a package, sub-packages and modules beside them; each may import those before it and its own.
ROOMS = {
    "registry": (
        *("errors", "references", "entities", "settings", "crash_points"),
        *(
            "files",
            "containers",
            "example_shapes",
            "database",
            "intake",
            "jobs",
            "records",
            "registration",
            "lists",
            "nouns",
        ),
        *("service", "reports", "bills", "commands"),
    ),
    "xlora_engine": (
        *("errors", "config", "devices", "sources", "merging", "data", "mixture"),
        *("adapter_training", "head_training", "gate_training"),
        *("measuring", "metrics", "decoding", "saved", "model", "mixture_editing", ""),
    ),
    "workers": (
        *(
            "errors",
            "processes",
            "tracking",
            "requests",
            "conversion",
            "attempts",
            "training_data",
            "methods",
            "jobs",
            "worker",
            "broker",
            "app",
        ),
        *("checks", "commands", "rebuilding"),
    ),
}

#: module -> the libraries that it imports inside functions, itself or through our modules, to start sooner.
LATE = {
    "registry.commands.bill": {"sqlalchemy"},
    "registry.commands.compositions": {"jinja2"},
    "registry.commands.managing": {"sqlalchemy"},
    "registry.commands.output": {"rich"},
    "registry.containers.columnar": {"pyarrow"},
    "registry.containers.sources": {"pyarrow"},
    "registry.database.schema": {"alembic"},
    "registry.files.blobs.remote": {"fsspec"},
    "registry.files.safetensors_file": {"numpy"},
    "registry.intake.adapter_tensors": {"numpy"},
    "registry.intake.makers.conversion": {"numpy"},
    "registry.intake.fitting.base_copies": {"numpy"},
    "registry.settings": {"platformdirs"},
    "workers.conversion.unpickling": {"numpy", "safetensors", "torch"},
    "workers.commands.doctor": {"sqlalchemy"},
    "workers.commands.migrate": {"sqlalchemy"},
    "workers.requests.adapters": {"torch", "transformers"},
    "workers.requests.base_models": {"torch", "transformers"},
    "workers.commands.evaluation.gated_alias": {"numpy", "pydantic", "sqlalchemy"},
    "workers.commands.relay": {"sqlalchemy"},
    "workers.commands.running": {"rich"},
    "workers.jobs.adapter_export": {"torch", "transformers"},
    "workers.jobs.export": {"torch"},
    "workers.commands.train": {"torch", "transformers", "peft"},
    "workers.jobs.generation": {"torch", "transformers"},
    "workers.jobs.reports.figures": {"matplotlib"},
    "workers.processes.spinning": {"torch"},
    "workers.rebuilding.compositions": {"sqlalchemy"},
    "workers.training_data.length_figure": {"matplotlib"},
    "workers.tracking.delivery": {"mlflow"},
    "workers.tracking.mlflow_store": {"mlflow"},
    "xlora_engine": {"pydantic", "torch"},
    "xlora_engine.sources.hub": {"huggingface_hub"},
}

#: module -> the libraries that it imports inside functions because they need not be installed.
OPTIONAL = {
    "registry.bills.cyclonedx": {"cyclonedx"},
    "registry.database.reader": {"psycopg"},
    "workers.broker.wake_ups": {"billiard"},
    "workers.commands.evaluation.harness": {"lm_eval"},
    "workers.jobs.evaluation.job": {"lm_eval"},
    "workers.broker.serving": {"celery"},
    "workers.checks.broker": {"redis"},
    "workers.commands.relay": {"celery"},
    "workers.commands.worker": {"celery"},
}

#: Imports inside functions that spare no library, and what they spare.
LATE_ALTHOUGH_SMALL = {
    ("zoo", "importlib.metadata"): "a twentieth of the time of `zoo --help`",
    ("zoo", "traceback"): "of the standard library too, for a fault alone",
}

#: What a person can take in at a glance.
MOST_MODULES_IN_A_FOLDER = 16
MOST_LINES_IN_A_MODULE = 360

#: package -> libraries that its modules may not import, directly
FORBIDDEN = {
    "formats": {"torch", "transformers", "peft", "numpy", "sqlalchemy", "click"},
    "registry": {"torch", "transformers", "peft", "celery", "mlflow"},
    "xlora_engine": {"sqlalchemy", "alembic", "celery", "redis", "mlflow", "click"},
    "migrations/versions": {"formats", "registry", "workers", "xlora_engine", "torch"},
}


FUNCTION, TYPE_CHECKING = "a function", "TYPE_CHECKING"


@dataclass(frozen=True)
class Import:
    """A module that another one imports: for type checkers only, or inside a function, or neither."""

    importer: str
    name: str
    inside: str | None = None

    @property
    def library(self) -> str:
        """The package that it is from."""
        return self.name.partition(".")[0]


@functools.cache
def paths() -> dict[str, Path]:
    """Our modules by name; a package's own name is its `__init__`."""
    files = [ROOT / "zoo.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    return {_name_of(path): path for path in files}


def _name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path) -> tuple[Import, ...]:
    """Everything that a file imports, wherever in it."""
    return tuple(_imports_below(ast.parse(path.read_text(encoding="utf-8")), _name_of(path), None))


def _imports_below(node: ast.AST, importer: str, inside: str | None) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import():
                yield from (Import(importer, alias.name, inside) for alias in child.names)
            case ast.ImportFrom():
                assert child.level == 0, f"{importer} imports relatively: line {child.lineno}"
                yield from (
                    Import(importer, _module_or_parent(f"{child.module}.{alias.name}"), inside)
                    for alias in child.names
                )
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _imports_below(child, importer, FUNCTION)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from _imports_below(child, importer, TYPE_CHECKING)
            case _:
                yield from _imports_below(child, importer, inside)


def _module_or_parent(name: str) -> str:
    """`name` if it is a module of ours; otherwise where it is defined."""
    return name if name in paths() else name.rpartition(".")[0]


def ours() -> Iterator[Import]:
    """Every import of a module of ours by another."""
    for path in paths().values():
        yield from (one for one in imports(path) if one.library in PACKAGES)


@functools.cache
def libraries_at_once(module: str) -> frozenset[str]:
    """Libraries that importing a module imports, through modules of ours too; another's are itself."""
    if module not in paths():
        return frozenset({module.partition(".")[0]} - sys.stdlib_module_names)
    names = {one.name for one in imports(paths()[module]) if one.inside is None}
    return frozenset().union(*(libraries_at_once(name) for name in names - {module}))


def late_imports() -> Iterator[tuple[Import, frozenset[str]]]:
    """Every import inside a function, and the libraries that its module does without until then."""
    for path in paths().values():
        for one in imports(path):
            if one.inside == FUNCTION:
                yield one, libraries_at_once(one.name) - libraries_at_once(one.importer)


def room_of(module: str) -> str:
    """The second part of its name; empty for the package itself."""
    return [*module.split("."), ""][1]


def test_packages_import_one_way() -> None:
    wrong = {
        (one.importer, one.name)
        for one in ours()
        if (importer := one.importer.partition(".")[0]) != one.library
        if PACKAGES.index(one.library) > PACKAGES.index(importer) or {importer, one.library} == APART
    }
    assert not wrong


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_one_way(package: str) -> None:
    order = ROOMS[package]
    wrong = {
        (one.importer, one.name)
        for one in ours()
        if one.importer.startswith(f"{package}.") and one.library == package
        if order.index(room_of(one.name)) > order.index(room_of(one.importer))
    }
    assert not wrong


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_is_in_the_order(package: str) -> None:
    assert set(ROOMS[package]) - {""} == {room_of(name) for name in paths() if name.startswith(f"{package}.")}


def test_nothing_imports_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in paths()}
    for one in ours():
        graph[one.importer].add(one.name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imported by ".join(error.args[1]))


def test_an_import_inside_a_function_spares_a_library_that_the_tables_name() -> None:
    wrong = {
        (one.importer, one.name, *sorted(spared))
        for one, spared in late_imports()
        if not spared & (LATE.get(one.importer, set()) | OPTIONAL.get(one.importer, set()))
        if (one.importer, one.name) not in LATE_ALTHOUGH_SMALL
    }
    assert not wrong, "import it at the top, or name in LATE the library that the module starts without"


@pytest.mark.parametrize("table", [LATE, OPTIONAL], ids=["late", "optional"])
def test_no_table_names_what_is_not_imported_late(table: dict[str, set[str]]) -> None:
    spared: dict[str, set[str]] = {}
    for one, libraries in late_imports():
        spared.setdefault(one.importer, set()).update(libraries)
    stale = {(module, *(names - spared.get(module, set()))) for module, names in table.items()}
    assert not {row for row in stale if len(row) > 1}
    assert LATE_ALTHOUGH_SMALL.keys() <= {(one.importer, one.name) for one, _ in late_imports()}


def test_what_is_called_optional_need_not_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[^\w.-]", requirement)[0] for requirement in project["dependencies"]}
    assert not needed & set().union(*OPTIONAL.values())


def test_no_folder_has_more_modules_than_one_takes_in() -> None:
    folders = {path.parent for path in paths().values()} - {ROOT}
    counts = {str(folder.relative_to(ROOT)): len(set(folder.glob("*.py"))) - 1 for folder in folders}
    assert not {name: count for name, count in counts.items() if count > MOST_MODULES_IN_A_FOLDER}


@pytest.mark.parametrize(
    "room",
    [name for name, path in paths().items() if path.name == "__init__.py" and name != "xlora_engine"],
)
def test_a_room_says_what_it_is_for_and_nothing_else(room: str) -> None:
    tree = ast.parse(paths()[room].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_no_library_it_must_not_know(package: str) -> None:
    found = {
        (one.importer, one.name)
        for path in (ROOT / package).rglob("*.py")
        for one in imports(path)
        if one.library in FORBIDDEN[package]
    }
    assert not found


def test_only_what_ships_imports_mlflow() -> None:
    importers = {
        one.importer for path in paths().values() for one in imports(path) if one.library == "mlflow"
    }
    assert importers == {"workers.tracking.mlflow_store", "workers.tracking.delivery"}


@pytest.mark.processes
def test_what_the_command_line_needs_at_once_imports_no_heavy_library() -> None:
    code = (
        "import sys, zoo, registry.lists.queries, registry.commands.output\n"
        "import workers.commands.evaluation.adapters, registry.commands.jobs\n"
        "heavy = {'torch', 'transformers', 'peft', 'mlflow', 'sqlalchemy', 'alembic', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.processes
def test_the_supervising_side_of_a_job_never_imports_torch() -> None:
    # The job process's program too: that of a job in several processes does no work itself.
    sides = "workers.attempts.runner, workers.attempts.job_process"
    code = f"import sys, {sides}\nassert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("package", ROOMS)
def test_no_module_has_too_many_lines(package: str) -> None:
    long = {
        name: count
        for name, path in paths().items()
        if name.partition(".")[0] == package
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES_IN_A_MODULE
    }
    assert not long
