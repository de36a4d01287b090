"""MLflow: whether its server answers, accepts the account and is new enough; and which runs wait for it."""

import os
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from registry.settings import Settings
from workers.checks.findings import Finding, fault, ok, warning
from workers.checks.tracking_file import deleted_experiments, unusable_store
from workers.tracking.mlflow_store import store_name
from workers.tracking.shipping import NO_TRACKING, spooled_runs

TIMEOUT_S = 3.0
#: CVE-2026-2614, -2652, -0545, -2651, -4137 are fixed since.
_SAFE_SINCE = (3, 16, 1)
_SQLITE = "sqlite:///"
_UNAUTHORIZED, _FORBIDDEN = 401, 403


def check(settings: Settings) -> Iterator[Finding]:
    """The store that MLFLOW_TRACKING_URI names."""
    uri = settings.mlflow_tracking_uri
    if uri == NO_TRACKING:
        yield ok("mlflow", "off: runs stay in the job folders")
        return
    if uri.startswith(("http://", "https://")):
        yield from _server(uri.rstrip("/"), os.environ)
    elif uri.startswith(_SQLITE):
        yield _file(Path(uri.removeprefix(_SQLITE)))
    else:
        yield ok("mlflow", f"{store_name(uri)} is opened by MLflow itself when a job runs")
    yield from _waiting(settings)


def _server(url: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    server = store_name(url)
    try:
        version = _asked(f"{url}/version", environ)
    except urllib.error.HTTPError as error:
        yield _refused(server, error)
    except TimeoutError:
        yield fault(
            "mlflow",
            f"{server} accepts connections but does not answer within {TIMEOUT_S:g} s;"
            " jobs go on, their runs wait",
            fix="restart it: docker compose restart mlflow",
            unreachable=True,
        )
    except (OSError, ValueError) as error:
        yield fault(
            "mlflow",
            f"{server} cannot be reached: {getattr(error, 'reason', error)}; jobs go on, their runs wait",
            fix="start it: docker compose up -d mlflow, or correct MLFLOW_TRACKING_URI",
            unreachable=True,
        )
    else:
        yield _of_version(server, version)


def _asked(url: str, environ: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    account, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(  # noqa: S310 - http or https, as the caller made sure
        urlunsplit(parts._replace(netloc=host))
    )
    if authorization := _authorization(unquote(account), environ):
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return str(answer.read(64).decode())
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError from error
        raise


def _authorization(account: str, environ: Mapping[str, str]) -> str | None:
    """As MLflow's client signs in: the URL's account before any variable."""
    token, user = environ.get("MLFLOW_TRACKING_TOKEN"), environ.get("MLFLOW_TRACKING_USERNAME")
    if not account and token:
        return f"Bearer {token}"
    if not account and user:
        account = f"{user}:{environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
    return f"Basic {b64encode(account.encode()).decode()}" if account else None


def _refused(server: str, error: urllib.error.HTTPError) -> Finding:
    with error:
        if error.code == _UNAUTHORIZED:
            said, fix = (
                "does not know the account",
                "export MLFLOW_TRACKING_USERNAME=… MLFLOW_TRACKING_PASSWORD=…",
            )
        elif error.code == _FORBIDDEN:
            said, fix = (
                "refuses this machine's name for it, or the account",
                "start it with this name in --allowed-hosts, or give the account rights",
            )
        else:
            said, fix = f"answers with {error.code}", "look at its log: docker compose logs mlflow"
    return fault("mlflow", f"{server} {said}", fix=fix)


def _of_version(server: str, version: str) -> Finding:
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())
    if not numbers:
        return fault("mlflow", f"{server} is not an MLflow server", fix="correct MLFLOW_TRACKING_URI")
    said = f"{server} answers, version {version}, client {metadata.version('mlflow')}"
    if numbers < _SAFE_SINCE:
        floor = ".".join(map(str, _SAFE_SINCE))
        return warning(
            "mlflow",
            f"{said}: it has known vulnerabilities",
            fix=f"pip install 'mlflow>={floor}', where it runs",
        )
    return ok("mlflow", said)


def _file(database: Path) -> Finding:
    if database.exists() and not os.access(database, os.R_OK | os.W_OK):
        return fault("mlflow", f"{database} may not be written to", fix=f"chown {os.geteuid()} {database}")
    return (
        unusable_store(database)
        or deleted_experiments(database)
        or ok("mlflow", f"{database}, which {'exists' if database.exists() else 'the first run creates'}")
    )


def _waiting(settings: Settings) -> Iterator[Finding]:
    waiting = [run for run in spooled_runs(settings) if run.pending_bytes]
    refused = [run for run in waiting if run.reason]
    if len(waiting) > len(refused):
        count = len(waiting) - len(refused)
        yield warning("mlflow", f"{count} runs of this machine wait to be shipped", fix="zoo runs ship")
    if refused:
        jobs = " ".join(run.job for run in refused)
        yield warning(
            "mlflow",
            f"{len(refused)} runs of this machine were not taken: {refused[-1].reason}",
            fix=f"zoo runs ship, or give them up: zoo runs discard {jobs}",
        )
