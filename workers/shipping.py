"""The process that ships spools to MLflow, from both ends: how a supervisor starts it, and what it does.

    python -m workers.shipping JOB_FOLDER...

A process of its own, because importing MLflow takes seconds that training would miss, and because a process,
unlike a thread, can be given a time limit.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from registry.settings import Settings
from workers.child_environment import child_command, child_environment
from workers.errors import TrackingUnavailable
from workers.leash import die_with_parent, read_order
from workers.spool import is_pending
from workers.tracking import Tracker, store_name

#: what MLflow is told where nothing is said: how to sign in, and how to reach artifact stores
_CREDENTIALS = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
#: quiet, and quick to give up
MANNERS = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
#: the tracking URI that means: do not track
NO_TRACKING = "none"

_SHIP_EVERY_S = 2.0


class NoShipper:
    """Where MLFLOW_TRACKING_URI is `none`: runs stay in their spools and can be shipped later."""

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
    ) -> None:
        self._on_run = on_run
        self._on_unavailable = on_unavailable
        self._process = subprocess.Popen(
            child_command("workers.shipping", *map(str, job_folders)),
            env=child_environment(os.environ, also=_CREDENTIALS) | MANNERS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        order = {
            "uri": settings.mlflow_tracking_uri,
            "artifact_folder": str(settings.home / "mlflow-artifacts"),
            "parent_pid": os.getpid(),
        }
        _write(self._process.stdin, json.dumps(order).encode() + b"\n")
        self._reader = threading.Thread(target=self._listen, name="shipper", daemon=True)
        self._reader.start()

    def finish(self, *, timeout_s: float) -> bool:
        """Wait for the last shipment, at most `timeout_s`; whether everything was shipped."""
        _write(self._process.stdin, None)
        try:
            return self._process.wait(timeout=timeout_s) == 0
        except subprocess.TimeoutExpired:
            self._on_unavailable(f"MLflow did not take the run within {timeout_s:g} s")
            return False
        finally:
            self.abandon()

    def abandon(self) -> None:
        """End the process now, if it still runs; what it has not shipped stays in the spool."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        _write(self._process.stdin, None)

    def _listen(self) -> None:
        stream: Any = self._process.stdout
        with stream:
            for line in stream:
                said = json.loads(line)
                if "unavailable" in said:
                    self._on_unavailable(said["unavailable"])
                elif said["run_id"]:
                    self._on_run(said["run_id"])


def pending_folders(settings: Settings) -> tuple[Path, ...]:
    """The job folders that hold something MLflow does not have."""
    store = store_name(settings.mlflow_tracking_uri)
    jobs = settings.home / "jobs"
    folders = sorted(jobs.iterdir()) if jobs.exists() else []
    return tuple(folder for folder in folders if is_pending(folder, store=store))


def main(folders: Sequence[str]) -> int:
    """Ship until standard input ends, then once more; say in JSON lines on standard output what happened."""
    order = read_order(0)
    die_with_parent(order["parent_pid"])
    os.nice(10)
    tracker = Tracker(uri=order["uri"], artifact_folder=Path(order["artifact_folder"]))
    last = False
    while True:
        shipped = [_ship(tracker, Path(folder)) for folder in folders]
        if last:
            return 0 if all(shipped) else TrackingUnavailable.exit_code
        last = _stdin_ended(_SHIP_EVERY_S)


def _ship(tracker: Tracker, folder: Path) -> bool:
    if not is_pending(folder, store=tracker.store):
        return True
    try:
        shipment = tracker.ship(folder)
    except TrackingUnavailable as unavailable:
        _say(unavailable=str(unavailable))
        return False
    _say(run_id=shipment.run_id)
    return True


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _stdin_ended(timeout_s: float) -> bool:
    ready, _, _ = select.select([0], [], [], timeout_s)
    return bool(ready) and not os.read(0, 64)


def _write(stream: IO[bytes] | None, content: bytes | None) -> None:
    """Write, or close when there is nothing to write; a reader that is gone is not an error here."""
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
