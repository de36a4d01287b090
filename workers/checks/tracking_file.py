"""MLflow's SQLite file: whether the installed MLflow can use it, and what was deleted. Imports no MLflow."""

import contextlib
import importlib.util
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workers.checks.findings import Finding, fault, warning

_REVISION = re.compile(r"^(down_)?revision\s*(?::[^=]+)?=\s*[\"'](\w+)[\"']", re.MULTILINE)


def unusable_store(database: Path) -> Finding | None:
    """A fault if the file's schema is another MLflow release's; None if it can be used, or is missing."""
    stored = _rows(database, "SELECT version_num FROM alembic_version")
    known = _revisions()
    if not stored or not known:
        return None
    revision = str(stored[0][0])
    if revision not in known:
        return fault(
            "mlflow",
            f"{database} was written by another MLflow release (its schema {revision} is unknown here)",
            fix="pip install --upgrade mlflow, or move the file away: the next run creates one",
        )
    if revision in known.values():
        return fault(
            "mlflow",
            f"{database} was written by an older MLflow release (schema {revision})",
            fix=f"mlflow db upgrade sqlite:///{database}",
        )
    return None


def deleted_experiments(database: Path) -> Finding | None:
    """A warning if experiments of the zoo were deleted: MLflow takes no more runs for them."""
    deleted = _rows(
        database,
        "SELECT name FROM experiments WHERE name LIKE 'zoo/%' AND lifecycle_stage = 'deleted' ORDER BY name",
    )
    if not deleted:
        return None
    names = ", ".join(str(row[0]) for row in deleted)
    return warning(
        "mlflow",
        f"the experiments {names} were deleted, so MLflow takes no runs for them",
        fix="zoo runs ship --restore",
    )


def _rows(database: Path, sql: str) -> Sequence[Any]:
    if not database.exists():
        return ()
    try:
        uri = f"file:{quote(str(database))}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.Error:
        return ()


def _revisions() -> dict[str, str | None]:
    """Every schema revision of the installed MLflow -> the one before it."""
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "store" / "db_migrations" / "versions"
    revisions: dict[str, str | None] = {}
    for path in folder.glob("*.py"):
        found = {bool(down): name for down, name in _REVISION.findall(path.read_text(encoding="utf-8"))}
        if False in found:
            revisions[found[False]] = found.get(True)
    return revisions
