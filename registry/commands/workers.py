"""`zoo workers`: the workers that run queued jobs."""

from typing import Any

import click

from registry.commands.managing import reading
from registry.commands.output import Output, output_options
from registry.lists import queries

_COLUMNS = ("host", "process_id", "queues", "gpu", "state", "job", "seen")
#: A worker announces itself every few seconds.
_LOST_AFTER_S = 30.0


@click.group(name="workers")
def command() -> None:
    """Workers that run queued jobs."""


@command.command()
@output_options
def ls(output: Output) -> None:
    """List workers: host, queues, state, and when each was last seen.

    Example: zoo workers ls
    """
    with reading() as reader:
        rows = [_summary(row) for row in queries.workers(reader)]
    output.emit(rows, key="name", columns=_COLUMNS, empty="no workers; start one with: zoo worker")


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    age_s = max(0.0, (row.pop("read_at") - row["seen_at"]).total_seconds())
    at_work = "draining" if row["state"] == "draining" else "running" if row["job"] else "idle"
    return {
        **row,
        "state": "lost" if age_s > _LOST_AFTER_S else at_work,
        "gpu": row["gpu"] or "",
        "seen_s": round(age_s, 1),
        "seen": f"{age_s:.0f} s ago",
    }
