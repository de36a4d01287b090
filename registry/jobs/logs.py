"""A job's log, if this machine can read it: all of it, its last lines, or as it grows."""

import codecs
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import ArtifactMissing
from registry.jobs.progress import describe
from registry.jobs.states import TERMINAL_STATES

if TYPE_CHECKING:
    from registry.entities import Job, JobEvent
    from registry.jobs.store import JobStore

_POLL_EVERY_S = 0.5
#: A job reports progress several times a second; people need it less often.
_SAY_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class JobLog:
    """What a job's processes wrote until now."""

    job: "Job"
    #: The machine of the last attempt; None before the first.
    host: str | None
    text: str


def log_of(jobs: "JobStore", job_id: int, *, tail: int | None = None) -> JobLog:
    """The log of a job, or its last `tail` lines.

    Raises:
        JobNotFound: there is no such job.
        ArtifactMissing: the log is on another machine, or was removed.
    """
    job, events = jobs.get(job_id), jobs.events(job_id)
    require_log_here(job, events)
    text = _read(job, offset=0)[0].decode(errors="replace")
    return JobLog(job=job, host=ran_on(events), text=last_lines(text, tail))


def require_log_here(job: "Job", events: "Sequence[JobEvent]") -> None:
    """Require a log that this machine can read, or a job without a log yet.

    Raises:
        ArtifactMissing: it is on another machine, or was removed.
    """
    if job.log_path is None or Path(job.log_path).exists():
        return
    host = ran_on(events)
    if host in (None, platform.node()):
        raise ArtifactMissing(f"the log of job {job.id} is no longer at {job.log_path}")
    raise ArtifactMissing(
        f"job {job.id} ran on {host}; its log {job.log_path} cannot be read from this machine,"
        f" {platform.node()}; read it there, or share the folder ZOO_HOME/jobs between machines"
    )


def ran_on(events: "Sequence[JobEvent]") -> str | None:
    """The machine of the last attempt; None before the first."""
    owners = [str(event.payload.get("owner", "")) for event in events if event.kind == "claimed"]
    return owners[-1].partition("/")[0] if owners else None


def followed(
    jobs: "JobStore", job_id: int, *, say: Callable[[str], None], tail: int | None = None
) -> Iterator[str]:
    """What is written, as it comes, until the job ends; `say` gets the progress from time to time.

    Of what is there already, only the last `tail` lines, if a number is given.

    Raises:
        JobNotFound: there is no such job.
        ArtifactMissing: the log is on another machine, or was removed.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offset, said, said_at = 0, "", 0.0
    while True:
        # Asked before reading, so that what was written last before the end is read too.
        job = jobs.get(job_id)
        if job.log_path is not None:
            require_log_here(job, jobs.events(job_id))
        written, offset = _read(job, offset=offset)
        if chunk := decoder.decode(written):
            yield last_lines(chunk, tail)
            tail = None
        if job.state in TERMINAL_STATES:
            return
        progress = describe(job.progress) if job.state == "running" else ""
        if progress not in ("", said) and time.monotonic() - said_at > _SAY_EVERY_S:
            say(progress)
            said, said_at = progress, time.monotonic()
        time.sleep(_POLL_EVERY_S)


def last_lines(text: str, count: int | None) -> str:
    """The last `count` lines, or all."""
    return text if count is None else "".join(text.splitlines(keepends=True)[-count:])


def json_line(job_id: int, text: str) -> str:
    """A part of a followed log as a line of JSON."""
    return json.dumps({"job": job_id, "text": text}, ensure_ascii=False) + "\n"


def _read(job: "Job", *, offset: int) -> tuple[bytes, int]:
    """The content from `offset` on, and the offset after it."""
    if job.log_path is None or not Path(job.log_path).exists():
        return b"", 0
    with Path(job.log_path).open("rb") as stream:
        # A log that was truncated starts over.
        stream.seek(offset if offset <= Path(job.log_path).stat().st_size else 0)
        written = stream.read()
        return written, stream.tell()
