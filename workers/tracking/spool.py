"""The spool of a run: what a job measured, as an append-only file of JSON lines and copies of files.

A job only writes here; `workers.tracking.mlflow_store` ships it to MLflow. This module knows MLflow's limits.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workers.processes.replaced_file import replaced_file
from workers.tracking.dataset_inputs import DatasetInput

#: Relative to a job's folder.
SPOOL_FOLDER = "tracking"
_LINES = "spool.jsonl"
#: Copies of files, relative to it.
FILES = "files"
_SHIPPED = "shipped.json"
#: The tag that MLflow shows as a run's description, as Markdown.
DESCRIPTION = "mlflow.note.content"
# MLflow's limits, mlflow/utils/validation.py
_KEY_LENGTH = 250
_PARAMETER_LENGTH = 6000
_TAG_LENGTH = 8000
_NOT_IN_A_KEY = re.compile(r"[^\w\-./: ]")
#: MLflow refuses names that change when they are normalised as paths, and names that leave their folder.
_NOT_A_PATH_PART = re.compile(r"^\.*$")
_LEADING_DOTS = re.compile(r"^\.\.")
#: A version on record, as subjects are named: its `@` is the `_` of no other name.
_REFERENCE = re.compile(r"^([a-z]+:[^@]+)@(\d+)$")
_DIGITS = 6
#: An end is one short line.
_LAST_LINE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Line:
    """One complete line of a spool: its record, and the offset in the file where the next one starts."""

    record: Mapping[str, Any]
    end_offset: int


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """How far a spool has been shipped, and to which run of which store."""

    store: str
    spool_id: str = ""
    run_id: str | None = None
    offset: int = 0
    #: Why MLflow did not take the rest the last time; empty once it did.
    reason: str = ""


class Run:
    """The handle by which a job reports its run; every call appends one line and returns at once."""

    def __init__(self, job_folder: Path) -> None:
        self._folder = job_folder / SPOOL_FOLDER
        (self._folder / FILES).mkdir(parents=True, exist_ok=True)
        self._descriptor = _open_for_append(self._folder / _LINES)
        if os.fstat(self._descriptor).st_size == 0:
            # Installations that share one MLflow have equal job numbers; this id is unique.
            self._append("spool", id=uuid.uuid4().hex)

    def begin(
        self, *, experiment: str, name: str, parameters: Mapping[str, Any], tags: Mapping[str, object]
    ) -> None:
        """Name the run; a later attempt of the same job may call it again."""
        self._append(
            "begin", experiment=experiment, name=name, parameters=flatten(parameters), tags=_tags(tags)
        )

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Values measured at one step, such as {"train/loss": 1.2}."""
        self._append(
            "metrics",
            step=int(step),
            values={tracking_name(name): float(value) for name, value in values.items()},
        )

    def tags(self, values: Mapping[str, object]) -> None:
        """Facts about the run: subject, dataset digests."""
        self._append("tags", values=_tags(values))

    def describe(self, markdown: str) -> None:
        """What a person reads on top of the run's page; a later text replaces it."""
        self.tags({DESCRIPTION: markdown})

    def dataset(self, dataset: DatasetInput) -> None:
        """A dataset that the run reads, and what for."""
        self._append("dataset", **asdict(dataset))

    def table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """A table by its columns, which are equally long; MLflow shows and compares it."""
        relative = f"{tracking_name(name).replace(':', '-')}.json"  # MLflow takes no colon in a table's name
        target = self._folder / FILES / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(target) as staged:
            staged.write_text(_split_table(columns), encoding="utf-8")
        self._append("table", path=relative)

    def artifact(self, path: Path, *, folder: str = "") -> None:
        """Keep a copy of a file for the run, which shows it in `folder`."""
        relative = Path(FILES, folder, path.name)
        target = self._folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(target) as staged:
            shutil.copyfile(path, staged)
        self._append("artifact", path=str(relative), folder=folder)

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._append("end", status=status)

    def close(self) -> None:
        """Close the file; the spool stays."""
        os.close(self._descriptor)

    def _append(self, action: str, **fields: Any) -> None:
        record = {"action": action, "at_ms": time.time_ns() // 1_000_000, **fields}
        os.write(self._descriptor, json.dumps(record).encode() + b"\n")


class NoRun(Run):
    """A run that records nothing: for the processes of a job whose first process reports for all."""

    def __init__(self) -> None:
        pass

    def artifact(self, path: Path, *, folder: str = "") -> None:
        """Copy nothing."""

    def table(self, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""

    def _append(self, action: str, **fields: Any) -> None:
        pass


def read_lines(job_folder: Path, *, offset: int) -> Iterator[Line]:
    """The complete lines from `offset` on; a line that a killed process left half-written is skipped."""
    lines = job_folder / SPOOL_FOLDER / _LINES
    if not lines.exists():
        return
    with lines.open("rb") as stream:
        stream.seek(offset)
        for raw in stream:
            if not raw.endswith(b"\n"):
                return
            offset += len(raw)
            yield Line(record=_parsed(raw), end_offset=offset)


def shipped(job_folder: Path, *, store: str) -> Shipment:
    """How far the job's spool has been shipped to the named store."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        shipment = Shipment(**json.loads((job_folder / SPOOL_FOLDER / _SHIPPED).read_text()))
        if shipment.store == store:
            return shipment
    return Shipment(store=store)


def keep_shipped(job_folder: Path, shipment: Shipment) -> None:
    """Remember how far the spool has been shipped."""
    with replaced_file(job_folder / SPOOL_FOLDER / _SHIPPED) as staged:
        staged.write_text(json.dumps(asdict(shipment)))


def discard_pending(job_folder: Path, *, store: str) -> None:
    """Give up what the named store has not received of the job's run; its lines stay in the spool."""
    state = shipped(job_folder, store=store)
    lines = job_folder / SPOOL_FOLDER / _LINES
    keep_shipped(job_folder, replace(state, offset=lines.stat().st_size, reason=""))


def is_open(job_folder: Path) -> bool:
    """Whether the run has begun and has no end, because its supervisor died before it could write one."""
    lines = job_folder / SPOOL_FOLDER / _LINES
    if not lines.exists():
        return False
    with lines.open("rb") as stream:
        size_bytes = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size_bytes - _LAST_LINE_BYTES))
        last = stream.read().rstrip(b"\n").rpartition(b"\n")[2]
    return size_bytes > 0 and _parsed(last).get("action") != "end"


def is_pending(job_folder: Path, *, store: str) -> bool:
    """Whether the job measured something that the named store has not received."""
    return pending_bytes(job_folder, store=store) > 0


def pending_bytes(job_folder: Path, *, store: str) -> int:
    """How much of the job's spool the named store has not received, in bytes; files not counted."""
    lines = job_folder / SPOOL_FOLDER / _LINES
    written_bytes = lines.stat().st_size if lines.exists() else 0
    return max(0, written_bytes - shipped(job_folder, store=store).offset)


def flatten(parameters: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Nested settings in the form of MLflow's parameters: dotted names and short text, cut to its limits.

    What is left out or empty is no parameter, so that runs side by side show what was asked.
    """
    flat: dict[str, str] = {}
    for name, value in parameters.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, prefix=f"{key}.")
        elif value is not None and value != []:
            flat[tracking_name(key)] = _cut(_written(value), _PARAMETER_LENGTH)
    return flat


def _written(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str | int | float) for each in value):
        return ", ".join(map(str, value))
    return json.dumps(value, default=str)


def _split_table(columns: Mapping[str, Sequence[object]]) -> str:
    """The table as pandas writes it with `orient="split"`, which is how MLflow reads tables."""
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return json.dumps({"columns": list(columns), "data": rows}, ensure_ascii=False)


def _tags(values: Mapping[str, object]) -> dict[str, str]:
    return {tracking_name(name): _cut(str(value), _TAG_LENGTH) for name, value in values.items()}


def tracking_name(name: str) -> str:
    """A name that MLflow accepts for a parameter, metric or tag, and that no other name is given.

    What MLflow refuses becomes `_`; a part that this made another has six digits of its digest behind it.
    """
    taken = "/".join(map(_taken_part, name.split("/")))
    if len(taken) <= _KEY_LENGTH:
        return taken
    return _distinguished(taken[: _KEY_LENGTH - _DIGITS - 1].rstrip("./"), name)


def _taken_part(part: str) -> str:
    plain = _REFERENCE.sub(r"\1_\2", part)
    taken = _LEADING_DOTS.sub("__", _NOT_A_PATH_PART.sub("_", _NOT_IN_A_KEY.sub("_", plain)))
    return taken if taken == plain else _distinguished(taken, part)


def _distinguished(taken: str, name: str) -> str:
    return f"{taken}-{hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]}"


def _cut(value: str, length: int) -> str:
    return value if len(value) <= length else value[: length - 1] + "…"


def _parsed(raw: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(raw)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _open_for_append(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    size_bytes = os.fstat(descriptor).st_size
    # A half line of an attempt that was killed must not corrupt the first line of this one.
    if size_bytes and os.pread(descriptor, 1, size_bytes - 1) != b"\n":
        os.write(descriptor, b"\n")
    return descriptor
