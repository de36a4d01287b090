"""The process that ships spools to MLflow: how a supervisor starts it, and what it does.

    python -m workers.tracking.shipping JOB_FOLDER...

It is a process because importing MLflow takes seconds away from training, and because a process, unlike a
thread, can be given a time limit. Once MLflow answers, it also ships what earlier jobs could not.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from registry.errors import JobNotFound
from registry.settings import Settings
from workers.errors import TrackingUnavailable
from workers.processes.child_environment import child_command, child_environment
from workers.processes.parent_watchdog import die_with_parent, read_order
from workers.tracking.mlflow_store import Tracker, store_name
from workers.tracking.spool import discard_pending, is_pending, pending_bytes, shipped

#: Variables that MLflow's client needs to sign in and to reach artifact stores.
_CREDENTIALS = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_REQUEST_LIMIT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_FIRST_REQUEST_LIMIT_S = 5
#: Quiet, with short timeouts and no retries: a retry after a lost answer would create a run twice.
MLFLOW_CLIENT_ENV = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    _REQUEST_LIMIT: str(_FIRST_REQUEST_LIMIT_S),
}
#: The tracking URI that turns tracking off.
NO_TRACKING = "none"

_SHIP_EVERY_S = 2.0
#: Each failed attempt doubles the request's timeout up to this: a server may be slow rather than dead.
_REQUEST_LIMIT_S = 80
#: How long the end of a job still waits for an MLflow that did not answer the last time.
_LAST_TRY_S = 5.0
_POLL_S = 0.05

#: Reports an event to the supervisor, as keywords.
Say = Callable[..., None]


class NoShipper:
    """The shipper where MLFLOW_TRACKING_URI is `none`: runs stay in their spools and can be shipped later."""

    def finish(self, *, timeout_s: float) -> bool:  # noqa: ARG002 - the other shipper's signature
        """Nothing to wait for."""
        return True

    def abandon(self) -> None:
        """Nothing to end."""


class Shipper:
    """A running shipping process; closing its standard input asks for the last shipment."""

    def __init__(
        self,
        settings: Settings,
        job_folders: Sequence[Path],
        *,
        on_run: Callable[[str], None],
        on_unavailable: Callable[[str], None],
        restore: bool = False,
    ) -> None:
        """`restore`: bring back experiments and runs that were deleted in MLflow."""
        self._on_run = on_run
        self._on_unavailable = on_unavailable
        self._answers = True
        self._process = subprocess.Popen(
            child_command("workers.tracking.shipping", *map(str, job_folders)),
            env=child_environment(os.environ, also=_CREDENTIALS) | MLFLOW_CLIENT_ENV,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        order = {
            "uri": settings.mlflow_tracking_uri,
            "artifact_folder": str(settings.home / "mlflow-artifacts"),
            "jobs_folder": str(_jobs_folder(settings)),
            "restore": restore,
            "parent_pid": os.getpid(),
        }
        _write(self._process.stdin, json.dumps(order).encode() + b"\n")
        self._reader = threading.Thread(target=self._listen, name="shipper", daemon=True)
        self._reader.start()

    def finish(self, *, timeout_s: float) -> bool:
        """Wait for the last shipment, at most `timeout_s`; whether everything was shipped.

        Waits only 5 s for an MLflow that did not answer the last time.
        """
        _write(self._process.stdin, None)
        started = answered_at = time.monotonic()
        while self._process.poll() is None:
            now = time.monotonic()
            answered_at = now if self._answers else answered_at
            if now - started > timeout_s or now - answered_at > _LAST_TRY_S:
                self._on_unavailable(f"MLflow did not accept the run within {now - started:.1f} s")
                break
            time.sleep(_POLL_S)
        complete = self._process.poll() == 0
        self.abandon()
        return complete

    def abandon(self) -> None:
        """End the process now, if it still runs; what it has not shipped stays in the spools."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        _write(self._process.stdin, None)

    def _listen(self) -> None:
        stream: Any = self._process.stdout
        known: set[str] = set()
        with stream:
            for line in stream:
                event = json.loads(line)
                self._answers = "unavailable" not in event
                if not self._answers:
                    self._on_unavailable(event["unavailable"])
                elif event["run_id"] and event["run_id"] not in known:
                    known.add(event["run_id"])
                    self._on_run(event["run_id"])


@dataclass(frozen=True, kw_only=True)
class SpooledRun:
    """A job's run, as its spool on this machine describes it."""

    job: str
    #: MLflow's id; None until MLflow has the beginning of the run.
    run_id: str | None
    pending_bytes: int
    #: Why MLflow did not take the rest the last time; empty if it was not asked or took it.
    reason: str


def spooled_runs(settings: Settings) -> tuple[SpooledRun, ...]:
    """The runs of all job folders on this machine, by job number."""
    store = store_name(settings.mlflow_tracking_uri)
    runs = (
        SpooledRun(
            job=folder.name,
            run_id=(state := shipped(folder, store=store)).run_id,
            pending_bytes=pending_bytes(folder, store=store),
            reason=state.reason,
        )
        for folder in _job_folders(_jobs_folder(settings))
    )
    return tuple(sorted(runs, key=lambda run: (len(run.job), run.job)))


def ship_pending(settings: Settings, *, timeout_s: float, restore: bool = False) -> str | None:
    """Ship everything that MLflow has not received; the reason if that failed, None if it succeeded.

    `restore`: bring back experiments and runs that were deleted in MLflow, instead of refusing theirs.
    """
    folders = pending_folders(settings)
    if not folders:
        return None
    if settings.mlflow_tracking_uri == NO_TRACKING:
        return f"MLFLOW_TRACKING_URI is {NO_TRACKING!r}; set it to the MLflow that is to have the runs"
    complaints: list[str] = []
    shipper = Shipper(
        settings, folders, on_run=lambda _: None, on_unavailable=complaints.append, restore=restore
    )
    complete = shipper.finish(timeout_s=timeout_s)
    return None if complete else (complaints or ["MLflow gave no reason"])[-1]


def discard(settings: Settings, job: str) -> int:
    """Give up what MLflow has not received of a job's run; how many bytes that is.

    Raises:
        JobNotFound: no folder of that job is on this machine.
    """
    folder = _jobs_folder(settings) / job
    if not job.isdecimal() or not folder.is_dir():
        raise JobNotFound(job)
    store = store_name(settings.mlflow_tracking_uri)
    if discarded_bytes := pending_bytes(folder, store=store):
        discard_pending(folder, store=store)
    return discarded_bytes


def pending_folders(settings: Settings) -> tuple[Path, ...]:
    """The job folders that hold something MLflow has not received."""
    return tuple(_pending(_jobs_folder(settings), store=store_name(settings.mlflow_tracking_uri)))


def _pending(jobs: Path, *, store: str) -> Iterator[Path]:
    return (folder for folder in _job_folders(jobs) if is_pending(folder, store=store))


def _job_folders(jobs: Path) -> Iterator[Path]:
    return iter(sorted(jobs.iterdir()) if jobs.exists() else ())


def _jobs_folder(settings: Settings) -> Path:
    return settings.home / "jobs"


def main(folders: Sequence[str]) -> int:
    """Ship until standard input ends, then once more; report events as JSON lines on standard output."""
    order = read_order(0)
    die_with_parent(order["parent_pid"])
    os.nice(10)
    say = _private_output()
    tracker = Tracker(
        uri=order["uri"], artifact_folder=Path(order["artifact_folder"]), restore=order["restore"]
    )
    own = [Path(folder) for folder in folders]
    left_behind = _pending(Path(order["jobs_folder"]), store=tracker.store)
    last = False
    while True:
        complete = all([_ship(tracker, folder, say) for folder in own])  # noqa: C419 - a list, so that a failure does not skip the others
        if last:
            return 0 if complete else TrackingUnavailable.exit_code
        _set_request_limit(answered=complete)
        if complete:
            _ship_one_of(left_behind, tracker, own)
        last = _stdin_ended(_SHIP_EVERY_S)


def _ship(tracker: Tracker, folder: Path, say: Say) -> bool:
    """Ship one spool and report its run; whether MLflow took all of it."""
    store = tracker.store
    try:
        shipment = tracker.ship(folder) if is_pending(folder, store=store) else shipped(folder, store=store)
    except TrackingUnavailable as unavailable:
        say(unavailable=str(unavailable))
        return False
    say(run_id=shipment.run_id)
    return True


def _ship_one_of(left_behind: Iterator[Path], tracker: Tracker, own: Sequence[Path]) -> None:
    """Ship the next spool that an earlier job left; one that MLflow refuses stays for the next shipper."""
    folder = next((folder for folder in left_behind if folder not in own), None)
    if folder is not None:
        with contextlib.suppress(TrackingUnavailable, BlockingIOError):
            tracker.ship(folder, wait=False)


def _set_request_limit(*, answered: bool) -> None:
    # MLflow reads the variable anew for every request.
    limit_s = min(2 * int(os.environ[_REQUEST_LIMIT]), _REQUEST_LIMIT_S)
    os.environ[_REQUEST_LIMIT] = str(_FIRST_REQUEST_LIMIT_S if answered else limit_s)


def _private_output() -> Say:
    """Keep standard output for events, and redirect what MLflow prints to standard error."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return lambda **fields: _write_line(descriptor, fields)


def _write_line(descriptor: int, fields: Mapping[str, object]) -> None:
    os.write(descriptor, json.dumps(fields).encode() + b"\n")


def _stdin_ended(timeout_s: float) -> bool:
    ready, _, _ = select.select([0], [], [], timeout_s)
    return bool(ready) and not os.read(0, 64)


def _write(stream: IO[bytes] | None, content: bytes | None) -> None:
    """Write, or close if `content` is None; a reader that is gone is not an error."""
    if stream is None:
        return
    with contextlib.suppress(BrokenPipeError):
        if content is None:
            stream.close()
        else:
            stream.write(content)
            stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
